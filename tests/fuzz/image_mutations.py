"""Small image files of every format and mode, and mutations of them."""

import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from model.files.formats import FORMATS
from tests.support.pictures import encoded, scene

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
