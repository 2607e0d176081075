"""What no client should send, by the thousands: mutated images, forms, queries, tensors, and HTTP itself."""

import asyncio
import json
import os
import random
import re
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from app.decoding.pool import DecoderPool
from app.errors import BadImage, NotAnImage, TooLarge
from model.files.formats import FORMATS
from model.preprocess import Pixels
from model.spec import Preprocessing
from tests.support.pictures import encoded, scene
from tests.support.processes import resident_mb, workers
from tests.support.servers import Server, crossvit_serve

STEPS = Preprocessing(36, 32)
SECONDS = 3.0  # of decoding; otherwise the limits are the service's own
JPEG = encoded(scene(300, 200), "JPEG")


def cases(count: int) -> settings:
    """So many cases, the same ones every time; FUZZ in the environment is how many times as many."""
    count *= int(os.environ.get("FUZZ", "1"))
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=slow)


# Seeds: every format and mode, and what they carry


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    return exif.tobytes()


def in_mode(mode: str) -> Image.Image:
    image = scene(40, 30)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.quantize(64) if mode == "P" else image.convert(mode)


def seeds() -> list[bytes]:
    """Small files that are right, each of another kind."""
    frames = [scene(40, 30, seed) for seed in range(3)]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngInfo()
    text.add_text("Comment", "words " * 50, zip=True)
    text.add_itxt("Title", "ä" * 20, zip=True)
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 40}
    kept: dict[str, Any] = {"icc_profile": profile, "exif": oriented(6)}
    modes = {
        "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
        "JPEG": ["L", "RGB", "CMYK"],
        "WEBP": ["RGB", "RGBA"],
        "GIF": ["1", "L", "P", "RGB", "RGBA"],
        "BMP": ["1", "L", "P", "RGB", "RGBA"],
    }
    plain = [encoded(in_mode(mode), kind) for kind, several in modes.items() for mode in several]
    turned = [encoded(frames[0], "JPEG", exif=oriented(orientation)) for orientation in (0, 2, 6, 8, 9)]
    return [
        *plain,
        *turned,
        *(encoded(frames[0], kind, **animated) for kind in ("GIF", "WEBP", "PNG")),
        *(encoded(frames[0], kind, **kept) for kind in ("JPEG", "PNG", "WEBP")),
        encoded(frames[0], "JPEG", progressive=True, subsampling=0, comment=b"a comment"),
        encoded(frames[0], "JPEG", restart_marker_blocks=1, optimize=True),
        encoded(frames[0], "WEBP", lossless=True),
        encoded(in_mode("RGBA"), "WEBP", lossless=True, exif=oriented(3)),
        encoded(in_mode("P"), "PNG", transparency=3, bits=4, pnginfo=text),
        encoded(in_mode("L"), "PNG", transparency=7),
        encoded(in_mode("RGB"), "PNG", transparency=(1, 2, 3)),
        encoded(in_mode("P"), "GIF", transparency=3, comment=b"words " * 60, interlace=1),
        interlaced(40, 30),
        encoded(frames[0], "AVIF"),
        encoded(in_mode("RGBA"), "AVIF", exif=oriented(6)),
        encoded(in_mode("RGBA"), "ICO", sizes=[(24, 24), (16, 16)]),
        encoded(in_mode("RGBA"), "ICO", sizes=[(24, 24)], bitmap_format="bmp"),
    ]


def interlaced(width: int, height: int) -> bytes:
    """An Adam7 PNG, which Pillow reads and does not write."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    grey = np.asarray(in_mode("L"))[:height, :width]
    rows = b"".join(b"\0" + row.tobytes() for x, y, across, down in passes for row in grey[y::down, x::across])
    header = struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return PNG_MAGIC + b"".join(map(chunk, (b"IHDR", b"IDAT", b"IEND"), (header, zlib.compress(rows), b"")))


# Pieces: what the formats are made of. A mutation of a piece gets past the checks that a flipped bit fails.

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))


def pieces(body: bytes) -> list[bytes]:
    """The head of a file, and the chunks or segments that follow."""
    if body.startswith(PNG_MAGIC):
        return [body[:8], *_split(body, 8, lambda at: 12 + int.from_bytes(body[at : at + 4], "big"))]
    if body.startswith(b"RIFF"):
        return [
            body[:12],
            *_split(body, 12, lambda at: 8 + (int.from_bytes(body[at + 4 : at + 8], "little") + 1) // 2 * 2),
        ]
    if body.startswith(b"\xff\xd8"):
        return [body[:2], *re.split(rb"(?=\xff[\xc0-\xcf\xda-\xef\xfe])", body[2:])]
    if body.startswith(b"GIF"):
        return [body[:13], *re.split(rb"(?=[\x21\x2c])", body[13:])]
    return [body[:14], body[14:54], body[54:]]


def _split(body: bytes, start: int, length: Callable[[int], int]) -> Iterator[bytes]:
    while start < len(body):
        end = start + length(start)
        yield body[start:end]
        start = end


def _even(length: int) -> int:
    return length + length % 2


def sealed(body: bytes) -> bytes:
    """The file with its checksums (PNG) or its length (RIFF) made right again."""
    if body.startswith(PNG_MAGIC):
        head, *chunks = pieces(body)
        return head + b"".join(chunk(one[4:8], one[8:-4]) if len(one) >= 12 else one for one in chunks)
    if body.startswith(b"RIFF"):
        return body[:4] + struct.pack("<I", max(len(body) - 8, 0)) + body[8:]
    return body


# Mutations

Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]
INTERESTING = [0, 1, 2, 7, 127, 128, 255, 256, 1000, 7000, 32767, 32768, 65535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1]
SIZE_AT = {
    "PNG": [16, 20],
    "JPEG": [],
    "WEBP": [24, 26, 27, 30],
    "GIF": [6, 8],
    "BMP": [10, 14, 18, 22, 26, 28, 30, 46],
    "AVIF": [],
    "ICO": [6, 12, 14, 18],
}


def flip_bits(rng: random.Random, body: bytes, _: list[bytes]) -> bytes:
    changed = bytearray(body)
    for _time in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut_short(rng: random.Random, body: bytes, _: list[bytes]) -> bytes:
    return body[: rng.randrange(len(body))]


def append_garbage(rng: random.Random, body: bytes, _: list[bytes]) -> bytes:
    return body + rng.randbytes(rng.choice([1, 100, 5000]))


def write_number(rng: random.Random, body: bytes, _: list[bytes]) -> bytes:
    """An interesting number somewhere, rather at the front."""
    at = rng.randrange(min(len(body), rng.choice([32, 100, 1 << 20])))
    width = rng.choice([1, 2, 4])
    number = rng.choice(INTERESTING) % (1 << 8 * width)
    return body[:at] + number.to_bytes(width, rng.choice(["big", "little"])) + body[at + width :]


def other_size(rng: random.Random, body: bytes, _: list[bytes]) -> bytes:
    """Another width, height, depth or offset in the header."""
    kind = next((kind for kind, matches in FORMATS.items() if matches(body[:16])), "BMP")
    start_of_frame = [match.start() + 5 for match in re.finditer(rb"\xff[\xc0-\xc2]\x00", body)]
    at = rng.choice(SIZE_AT[kind] or [place + more for place in start_of_frame for more in (0, 2, 4)] or [6])
    width = 4 if kind in ("PNG", "BMP") else 2
    number = rng.choice(INTERESTING) % (1 << 8 * width)
    return body[:at] + number.to_bytes(width, "big" if kind in ("PNG", "JPEG") else "little") + body[at + width :]


def shuffle_pieces(rng: random.Random, body: bytes, _: list[bytes]) -> bytes:
    """A piece lost, doubled, doubled many times, moved, emptied or grown."""
    head, *rest = pieces(body)
    if not rest:
        return body
    at, to = rng.randrange(len(rest)), rng.randrange(len(rest))
    match rng.randrange(6):
        case 0:
            del rest[at]
        case 1:
            rest.insert(to, rest[at])
        case 2:
            rest[at:at] = [rest[at]] * rng.choice([20, 300])
        case 3:
            rest.insert(to, rest.pop(at))
        case 4:
            rest[at] = rest[at][:8] + rest[at][-4:]
        case _:
            rest[at] = rest[at][:8] + rng.randbytes(rng.choice([1, 30, 3000])) + rest[at][8:]
    return head + b"".join(rest)


def splice(rng: random.Random, body: bytes, others: list[bytes]) -> bytes:
    """The front of one file and the end of another, of any format."""
    other = rng.choice(others)
    return body[: rng.randrange(len(body))] + other[rng.randrange(len(other)) :]


def take_pieces(rng: random.Random, body: bytes, others: list[bytes]) -> bytes:
    """Some pieces of another file among one's own."""
    mine, others_own = pieces(body), pieces(rng.choice(others))
    at = rng.randrange(1, len(mine) + 1)
    return b"".join([*mine[:at], *rng.sample(others_own, rng.randrange(1, len(others_own) + 1)), *mine[at:]])


def other_magic(rng: random.Random, body: bytes, others: list[bytes]) -> bytes:
    return rng.choice(others)[:12] + body[12:]


def random_bytes(rng: random.Random, body: bytes, _: list[bytes]) -> bytes:
    return body[:12] + rng.randbytes(rng.choice([0, 4, 100, 2000]))


MUTATIONS: list[Mutation] = [
    flip_bits,
    cut_short,
    append_garbage,
    write_number,
    other_size,
    shuffle_pieces,
    splice,
    take_pieces,
    other_magic,
    random_bytes,
]


def mutant(number: int, originals: list[bytes]) -> bytes:
    """One to three mutations of one of `originals`; `number` says which."""
    rng = random.Random(number)  # noqa: S311, nothing secret
    body = rng.choice(originals)
    for mutation in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
        body = mutation(rng, body, originals) or b"\0"
    return sealed(body) if rng.random() < 0.7 else body


# Images


@dataclass
class Decoding:
    """The service's decoders, called from a test's threads."""

    decoders: DecoderPool
    loop: asyncio.AbstractEventLoop
    restarts: list[str] = field(default_factory=list)
    longest: float = 0.0

    def outcome(self, body: bytes) -> str:
        """What became of an image: "pixels" of the right shape, or the error that says why there are none."""
        started = time.perf_counter()
        try:
            pixels = self._decoded(body)
        except (BadImage, NotAnImage, TooLarge) as err:
            return type(err).__name__
        finally:
            self.longest = max(self.longest, time.perf_counter() - started)
        assert pixels.shape == (32, 32, 3)
        assert pixels.dtype == np.uint8
        return "pixels"

    def resident(self) -> dict[int, int]:
        """Megabytes of each worker."""
        found = {}
        for pid in workers(os.getpid(), "decoder"):
            status = Path(f"/proc/{pid}/status").read_text()
            found[pid] = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) // 1000
        return found

    def _decoded(self, body: bytes) -> Pixels:
        pixels, _ = asyncio.run_coroutine_threadsafe(self.decoders.decode(body, STEPS), self.loop).result(60)
        return pixels


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def decoding() -> Iterator[Decoding]:
    restarts: list[str] = []
    decoders = DecoderPool(
        count=2, max_pixels=50_000_000, seconds=SECONDS, memory_bytes=1 << 30, on_restart=restarts.append
    )
    with running_loop() as loop:
        asyncio.run_coroutine_threadsafe(decoders.__aenter__(), loop).result(60)
        yield Decoding(decoders, loop, restarts)
        asyncio.run_coroutine_threadsafe(decoders.__aexit__(), loop).result(60)


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    return seeds()


def test_the_seeds_are_right_and_come_apart_and_together(decoding: Decoding, originals: list[bytes]) -> None:
    assert len(originals) > 40
    for body in originals:
        assert decoding.outcome(body) == "pixels"
        assert b"".join(pieces(body)) == body
        assert sealed(body) == body


def test_mutated_images_give_pixels_or_a_reason_and_cost_no_worker(decoding: Decoding, originals: list[bytes]) -> None:
    def outcome(number: int) -> str:
        try:
            return decoding.outcome(mutant(number, originals))
        except Exception as err:
            raise AssertionError(f"mutant({number}) is not answered as it should be") from err

    with ThreadPoolExecutor(2) as pool:  # as many as there are decoders: nothing waits
        list(pool.map(outcome, range(2000)))
        before = decoding.resident()
        outcomes = Counter(pool.map(outcome, range(2000, 6000)))
    after = decoding.resident()
    assert all(outcomes[kind] > 100 for kind in ("pixels", "BadImage", "NotAnImage")), outcomes
    assert outcomes["TooLarge"] > 20, outcomes
    assert set(decoding.restarts) <= {"hung"}
    assert decoding.longest < SECONDS + 2
    assert len(after) == 2
    # What one image of the most pixels takes may stay with a worker, which uses it again; that is all.
    assert max(after.values()) < max(before.values()) + 250, (before, after)


@st.composite
def png_files(draw: st.DrawFn) -> bytes:
    """PNG files with the right checksums and anything in them."""
    side = st.integers(0, 70) | st.sampled_from(INTERESTING)
    header = struct.pack(
        "!IIBBBBB",
        draw(side),
        draw(side),
        draw(st.sampled_from([1, 2, 4, 8, 16, 3, 0])),
        draw(st.sampled_from([0, 2, 3, 4, 6, 1])),
        draw(st.sampled_from([0, 0, 0, 1])),
        draw(st.sampled_from([0, 0, 0, 1])),
        draw(st.sampled_from([0, 1, 2])),
    )
    pixels = draw(st.binary(max_size=50)) * draw(st.sampled_from([1, 100, 10_000]))
    kinds = [b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"cHRM"]
    others = draw(st.lists(st.tuples(st.sampled_from([*kinds, b"IHDR", b"IDAT", b"IEND"]), st.binary(max_size=40))))
    data = (b"IDAT", draw(st.sampled_from([zlib.compress(pixels), pixels])))
    chunks = draw(st.permutations([data, *others]))
    return PNG_MAGIC + chunk(b"IHDR", header) + b"".join(chunk(kind, content) for kind, content in chunks)


@st.composite
def bitmaps(draw: st.DrawFn) -> bytes:
    """BMP files with anything in their headers."""
    side = st.integers(-70, 70) | st.sampled_from([1 << 15, (1 << 31) - 1, -(1 << 31)])
    header = struct.pack(
        "<IiiHHIIiiII",
        draw(st.sampled_from([12, 40, 64, 108, 124, 0, 1 << 31])),
        draw(side),
        draw(side),
        draw(st.sampled_from([1, 0])),
        draw(st.sampled_from([1, 4, 8, 16, 24, 32, 2, 0])),
        draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6])),
        *draw(st.tuples(*[st.sampled_from([0, 1, 1 << 20])] * 5)),
    )
    offset = draw(st.sampled_from([14, 54, 70, 1078, 0, (1 << 32) - 1]))
    content = draw(st.binary(max_size=60)) * draw(st.sampled_from([1, 200]))
    return b"BM" + struct.pack("<IHHI", len(content), 0, 0, offset) + header + content


@st.composite
def gifs(draw: st.DrawFn) -> bytes:
    """GIF files of any blocks."""
    number = st.sampled_from([0, 1, 20, 300, 65535])
    blocks = [
        st.builds(lambda *a: b"\x2c" + struct.pack("<4H", *a[:4]) + bytes(a[4:]), *[number] * 4, st.integers(0, 255)),
        st.binary(max_size=20).map(lambda content: b"\x21\xf9\x04" + content),
        st.binary(max_size=60).map(lambda content: b"\x21\xff" + bytes([len(content)]) + content + b"\0"),
        st.binary(max_size=60).map(lambda content: bytes([8, len(content)]) + content + b"\0"),
        st.just(b"\x3b"),
    ]
    screen = struct.pack("<HHBBB", draw(number), draw(number), draw(st.integers(0, 255)), 0, 0)
    colours = draw(st.binary(max_size=30)) * 26
    return b"GIF89a" + screen + colours + b"".join(draw(st.lists(st.one_of(blocks), max_size=12)))


@cases(300)
@given(body=st.one_of(png_files(), bitmaps(), gifs()))
def test_files_of_any_pieces_give_pixels_or_a_reason(decoding: Decoding, body: bytes) -> None:
    decoding.outcome(body)
    assert set(decoding.restarts) <= {"hung"}
    assert decoding.longest < SECONDS + 2


# HTTP


@pytest.fixture(scope="module")
def target(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"header-seconds": 2, "body-seconds": 2, "keep-alive-seconds": 2, "decoders": 2, "max-body-bytes": 1000000}
    options = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
    log = tmp_path_factory.mktemp("target") / "log"
    with crossvit_serve(log, "--bundle", str(bundle), "--engine", "onnxruntime", *options) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def client(target: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=target.url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def still_right(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the server was sent, the next request is right, nothing was a defect, and memory did not grow."""
    if "target" not in request.fixturenames:
        yield
        return
    server: Server = request.getfixturevalue("target")
    right = httpx.post(f"{server.url}/classify", files={"file": JPEG}, timeout=30).json()["predictions"]
    before = resident_mb(server.process.pid)
    yield
    answer = httpx.post(f"{server.url}/classify", files={"file": JPEG}, timeout=30)
    assert answer.json()["predictions"] == right
    log = server.log_text()
    assert "Traceback" not in log
    assert '"status": 5' not in log
    assert resident_mb(server.process.pid) < before + 80


def assert_answered(response: httpx.Response) -> None:
    """A success, or a refusal that says why, and says it in JSON."""
    assert response.status_code < 500, (response.status_code, response.text)
    assert "Traceback" not in response.text
    if response.status_code < 400:
        return
    answer = response.json()
    if response.request.url.raw_path.startswith(b"/v2"):
        assert answer["error"]
    else:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert answer["status"] == response.status_code
        assert answer["detail"]


words = st.sampled_from(["file", "files", "image", "", "a", "ä", "x" * 300, "\0", '"', "%22", "../../a", "a;b=c"])
breaks = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b"\r\n\r\n", b" "])
fragments = st.sampled_from([JPEG, JPEG[:200], b"--x", b"\r\n--x--", b"\r\n--x\r\n", bytes(70_000)])


@st.composite
def parts(draw: st.DrawFn) -> bytes:
    """A part of a form, more or less."""
    end = draw(breaks)
    quote = draw(st.sampled_from([b'"', b'"', b'"', b"", b"'"]))
    named = [b"name=" + quote + draw(words).encode() + quote, b"filename=" + quote + draw(words).encode() + quote]
    options = draw(st.sampled_from([named, named, named[:1], named[1:], [], 3 * named]))
    disposition = b"; ".join([b"form-data", *options])
    headers = [
        b"Content-Disposition: " + disposition,
        b"Content-Type: " + draw(st.sampled_from([b"image/png", b"", b"multipart/mixed; boundary=x", b"text/plain"])),
        b"Content-Transfer-Encoding: base64",
        b"X: " + bytes(3000),
        draw(st.binary(max_size=20)),
    ]
    chosen = headers[:1] * draw(st.sampled_from([1, 1, 1, 0, 2])) + draw(st.lists(st.sampled_from(headers), max_size=2))
    return end.join(
        [b"--x", *chosen, draw(st.sampled_from([b"", b"", b"\0"])), draw(st.binary(max_size=30) | fragments), b""]
    )


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """A path, a Content-Type, and a form, more or less."""
    boundaries = [b"x", b"x", b"x", b'"x"', b"", b"y", b"x" * 5000, b"\xff", b"x; boundary=y", b'"x']
    charsets = [b"utf-8", b"undefined", b"idna", b"hex", b"\xff", b"nothing"]
    chosen = st.sampled_from([*boundaries, *(b"x; charset=" + charset for charset in charsets)])
    kind = b"multipart/form-data; boundary=" + draw(chosen)
    last = draw(st.sampled_from([b"--x--\r\n", b"--x--", b"--x--\r\n", b"", b"--x", b"--x-", bytes(300)]))
    body = draw(st.sampled_from([b"", b"", b"preamble\r\n"])) + b"".join(draw(st.lists(parts(), max_size=4))) + last
    return draw(st.sampled_from(["/classify", "/classify/batch"])), kind, body


@cases(350)
@given(form=forms())
def test_forms_of_any_shape_are_answered(client: httpx.Client, form: tuple[str, bytes, bytes]) -> None:
    path, kind, body = form
    assert_answered(client.post(path, content=body, headers={b"Content-Type": kind}))


def test_a_charset_cannot_hold_up_the_service(client: httpx.Client) -> None:
    rng = random.Random(0)  # noqa: S311
    text = bytes(rng.choices(b"abcdefghij", k=300_000))
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\na-' + text + b"\r\n--x--\r\n"
    started = time.monotonic()
    for charset in ("punycode", "idna", "undefined"):
        headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
        answer = client.post("/classify", content=body, headers=headers)
        assert answer.status_code == 400
        assert "charset" in answer.json()["detail"]
    assert time.monotonic() - started < 3


escapes = st.sampled_from(
    ["%00", "%ff", "%ed%a0%80", "%zz", "%", "%2e%2e%2f", "%0d%0aX:%201", "+", "&", ";", "=", "[]"]
)
odd_numbers = st.sampled_from(["1e9", "NaN", "0x10", "9" * 5000, "-0", "1.5", "224", "384", "٣", " 5 "])
values = st.lists(st.one_of(escapes, odd_numbers, st.integers().map(str), words, st.text(max_size=5)), max_size=3).map(
    "".join
)
names = st.sampled_from(["top_k", "resolution", "model", "deep", "top_k[]", "TOP_K", "", "__proto__"]) | values
methods = st.sampled_from([*2 * ("GET", "POST"), "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND"])
PLACES = [
    *("/classify", "/classify/batch", "/models", "/readyz", "/livez", "/metrics", "/admin/reload", "/docs"),
    *("/v2", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index", "/v2/repository/models/{}/load"),
    *("/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/infer", "/v2/models/{}/versions/{}/stats"),
    *("/{}", "/classify/{}", "/v2/{}", "/openapi.json", "/static-offline-docs/{}"),
]
HEADERS = [
    *(b"X-Request-ID", b"X-Request-Timeout-Ms", b"Authorization", b"X-API-Key", b"Accept", b"Accept-Encoding"),
    *(b"Content-Type", b"Content-Encoding", b"Inference-Header-Content-Length", b"Cookie", b"Range", b"Origin"),
    *(b"X-Forwarded-For", b"X-Forwarded-Host", b"traceparent", b"If-None-Match", b"X-HTTP-Method-Override"),
]
SAID = [
    *(b"0", b"-1", b"99999999999999", b"5000", b"\xff\xfe", b"\xb2", b"Bearer \xe4", b"gzip;q=2,*;q=x", b"x" * 9000),
    *(b"image/png", b"multipart/form-data", b"gzip", b"deflate", b"bytes=0-", b",", b"text/plain", b"00"),
]
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)


@cases(500)
@given(
    method=methods,
    path=st.builds(str.format, st.sampled_from(PLACES), values, values),
    query=st.lists(st.tuples(names, values).map("=".join), max_size=4).map("&".join),
    headers=st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(SAID) | printable, max_size=4),
    body=st.sampled_from([b"", b"", JPEG, b"{}", b'{"ready": true}', b"\x1f\x8b\x08\0"]),
)
def test_requests_of_any_path_query_and_headers_are_answered(
    client: httpx.Client, method: str, path: str, query: str, headers: dict[bytes, bytes], body: bytes
) -> None:
    as_sent = quote(f"{path}?{query}", safe="%/?&=+;:@!$'()*,[]~")  # what httpx would refuse goes by socket, below
    url = client.base_url.copy_with(raw_path=as_sent.encode())
    response = client.request(method, url, headers=headers, content=body)
    if method != "HEAD":
        assert_answered(response)


# Tensors

INFER = "/v2/models/crossvit_tiny/infer"
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([0, 1, 3, 224, 1 << 31, 1 << 64, 1e308, "image", "encoded", "UINT8", "BYTES", "logits", "\ud800"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
parameters = st.dictionaries(
    st.sampled_from(
        [
            "binary_data_size",
            "binary_data",
            "classification",
            "resolution",
            "binary_data_output",
            "shared_memory_region",
        ]
    ),
    scalars | st.sampled_from([4, 8, -1, True, 5]),
    max_size=3,
)


tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "encoded"]) | scalars,
        "shape": st.sampled_from([[1], [1, 1], [0], [1, 2, 2, 3], [1, 224, 224, 3], [1 << 31] * 4]) | anything,
        "datatype": st.sampled_from(["BYTES", "UINT8"]) | scalars,
    },
    optional={
        "parameters": parameters | anything,
        "data": st.sampled_from([["AAAA"], [12 * [0]], [[[[1, 2, 3]] * 2] * 2], "AAAA", 150528 * [7]]) | anything,
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=2) | anything},
    optional={
        "id": scalars,
        "parameters": parameters | anything,
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["logits", "probabilities"]) | scalars}, optional={"parameters": parameters}
            ),
            max_size=3,
        )
        | anything,
    },
)


@cases(350)
@given(
    request=requests | anything,
    tail=st.binary(max_size=20),
    json_bytes=st.sampled_from([None, None, "exact", "0", "1", "-1", "99999999999", "99999999", "٣", ""]),
    encoding=st.sampled_from([None, None, None, "gzip", "deflate", "br", "gzip, gzip", "identity"]),
    packed=st.booleans(),
    cut=st.sampled_from([0, 0, 0, 1, 10]),
)
def test_tensors_of_any_shape_are_answered(
    client: httpx.Client,
    request: Any,
    tail: bytes,
    json_bytes: str | None,
    encoding: str | None,
    packed: bool,
    cut: int,
) -> None:
    text = json.dumps(request).encode()
    body = text + (tail if json_bytes else b"")
    headers = {"Content-Type": "application/json"}
    if json_bytes is not None:
        length = str(len(text)) if json_bytes == "exact" else json_bytes
        headers["Inference-Header-Content-Length"] = length
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        body = zlib.compress(body, wbits=31 if encoding == "gzip" else 15) if packed else body
    sent = {name.encode(): value.encode() for name, value in headers.items()}
    response = client.post(INFER, content=body[: len(body) - cut], headers=sent)
    assert_answered(response)


# Bytes

METHODS = [
    b"GET",
    b"POST",
    b"HEAD",
    b"OPTIONS",
    b"PUT",
    b"CONNECT",
    b"TRACE",
    b"PRI",
    b"M-SEARCH",
    b"get",
    b"",
    b"\xff",
    b"G T",
]
TARGETS = [
    b"/livez",
    b"/classify",
    INFER.encode(),
    b"/%00%ff%zz",
    b"/\xff",
    b"*",
    b"http://other.example/livez",
    b"other.example:443",
]
TARGETS += [
    b"//livez",
    b"/livez/",
    b"/../livez",
    b"/livez#a",
    b"/readyz?model=%ed%a0%80",
    b"/" + 3000 * b"a",
    b"",
    b"/a b",
    b"/\0",
]
VERSIONS = [*30 * [b"HTTP/1.1"], b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"", b"HTTP/1.1 "]
LINES = [
    b"Host: service",
    b"Host: other",
    b"Host: [::1",
    b"Connection: keep-alive",
    b"Connection: close, Upgrade",
    b"Upgrade: websocket",
]
LINES += [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]
LINES += [
    b"Expect: 100-continue",
    b"Expect: nothing",
    b"X: \0",
    b"X: \xff\xfe",
    b": none",
    b" folded",
    b"X",
    b"X:\x0b1",
    b"X: a\rb",
]
LINES += [b"Content-Type: image/png", b"Content-Type: multipart/form-data; boundary=x", b"Content-Encoding: gzip"]
LINES += [
    b"X: " + 9000 * b"x",
    300 * b"X-A: b\r\n" + b"X-A: b",
    b"X-Request-ID: \xe4\"'<>",
    b"Trailer: X",
    b"TE: trailers, deflate",
]
LENGTHS = [
    b"0",
    b"5",
    b"+5",
    b"-1",
    b"0x5",
    b"5, 5",
    b"5,6",
    b" 5 ",
    b"5_0",
    b"\xb2",
    b"99999999999999999999999",
    b"99999999",
    b"",
]
ENCODINGS = [
    b"chunked",
    b"Chunked",
    b" chunked",
    b"chunked, chunked",
    b"identity",
    b"gzip, chunked",
    b"chunked, gzip",
    b"xchunked",
    b"",
]
ENCODINGS += [b"chunked\x0b", b'"chunked"', b"chunked;q=1", b"\r\n chunked"]
CHUNKS = [
    b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"05\r\nhello\r\n",
    b"5\r\nhello",
    b"5\nhello\n",
    b"zz\r\nhello\r\n",
    b"-1\r\nx\r\n",
]
CHUNKS += [
    b"ffffffffffffffffff\r\nx\r\n",
    b"0x5\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"\r\n",
    b"2\r\nhello\r\n",
    b"7fffffff\r\nx",
    b"0\r\n\r\n",
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: service\r\n\r\n"


def raw_request(number: int) -> bytes:
    """What may be a request, or several; `number` says which."""
    rng = random.Random(number)  # noqa: S311
    first = [
        rng.choice([b"GET", b"GET", b"POST", b"POST", rng.choice(METHODS)]),
        rng.choice([b"/livez", b"/classify", rng.choice(TARGETS)]),
        rng.choice(VERSIONS),
    ]
    lines = [b" ".join(first), b"Host: service", *rng.sample(LINES, k=rng.choice([0, 0, 0, 1, 1, 3]))]
    chunks = b"".join(rng.choices(CHUNKS, k=rng.randrange(4))) + rng.choice([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""])
    if rng.random() < 0.4:
        lines += [b"Content-Length" + rng.choice([b": ", b": ", b" : ", b":"]) + rng.choice(LENGTHS)]
    if rng.random() < 0.3:
        lines += [b"Transfer-Encoding" + rng.choice([b": ", b": ", b" : ", b"\t:"]) + rng.choice(ENCODINGS)]
    end = rng.choice([*20 * [b"\r\n"], b"\n", b"\r"])
    body = rng.choice([chunks, b"hello", b"", b"", JPEG, SMUGGLED, rng.randbytes(50)])
    request = end.join([*lines, b"", b""]) + body + rng.choice([b"", SMUGGLED])
    return flip_bits(rng, request, []) if rng.random() < 0.2 else request


def exchanged(server: Server, request: bytes) -> bytes:
    """All that comes back, until the server closes the connection or has nothing more to say."""
    received = b""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
        try:
            connection.sendall(request)
            while more := connection.recv(65536):
                received += more
        except ConnectionError:
            pass
    return received


def assert_well_formed(received: bytes) -> list[int]:
    """The statuses of the responses in `received`, each of them whole and in order."""
    statuses = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert status, head[:200]
        statuses.append(int(status[1]))
        length = int(found[1]) if (found := re.search(rb"(?i)\r\ncontent-length: (\d+)", head)) else 0
        body, received = received[:length], received[length:]
        if statuses[-1] >= 400 and body.startswith(b"{"):
            answer = json.loads(body)
            assert answer.get("error") or (answer["detail"] and answer["status"] == statuses[-1])
    return statuses


def test_bytes_of_any_kind_are_answered_or_cut_off_in_time(target: Server) -> None:
    def statuses(number: int) -> list[int]:
        started = time.monotonic()
        try:
            request = raw_request(number)
            found = assert_well_formed(exchanged(target, request)) if b"HEAD" not in request else []
            assert all(status < 500 or status in (501, 505) for status in found), found
            assert time.monotonic() - started < 15
            return found
        except Exception as err:
            raise AssertionError(f"raw_request({number}) is not answered as it should be") from err

    with ThreadPoolExecutor(100) as pool:  # many wait to be cut off
        counts = Counter(status for found in pool.map(statuses, range(1000)) for status in found)
    assert all(counts[status] > 15 for status in (200, 400, 404, 405)), counts


@pytest.mark.parametrize(
    "framing",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 0"],
        [b"Content-Length: 0", b"Content-Length: 5"],
        [b"Content-Length: 0, 5"],
        [b"Content-Length: +0"],
        [b"Content-Length : 0"],
        [b"Transfer-Encoding : chunked"],
        [b"Transfer-Encoding:\r\n chunked"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: chunked\x0b"],
        [b"Transfer-Encoding: chunked, identity"],
        [b'Transfer-Encoding: "chunked"'],
        [b"X: \0", b"Content-Length: 0"],
        [b"X: a\rContent-Length: 0"],
        [b"X: a\nTransfer-Encoding: chunked"],
    ],
)
def test_a_request_of_doubtful_length_is_refused_and_nothing_after_it_read(
    target: Server, framing: list[bytes]
) -> None:
    head = b"\r\n".join([b"POST /livez HTTP/1.1", b"Host: service", *framing])
    assert assert_well_formed(exchanged(target, head + b"\r\n\r\n0\r\n\r\n" + SMUGGLED)) == [400]


def test_pipelined_requests_are_answered_in_order(target: Server) -> None:
    paths = [b"/livez", b"/smuggled", b"/v2/models/resnet", b"/models", b"/readyz?deep=x"] * 3
    requests = [b"GET %s HTTP/1.1\r\nHost: service\r\n\r\n" % path for path in paths]
    assert assert_well_formed(exchanged(target, b"".join(requests))) == [200, 404, 404, 200, 422] * 3
