"""Image files that are mutated, or made of any pieces, decoded as the service decodes them."""

import asyncio
import os
import re
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.decoding.pool import DecoderPool
from app.errors import BadImage, NotAnImage, TooLarge
from model.preprocess import Pixels
from model.spec import Preprocessing
from tests.fuzz.cases import case_count, cases
from tests.fuzz.image_mutations import INTERESTING, PNG_MAGIC, chunk, mutant, pieces, sealed, seeds
from tests.support.processes import workers

STEPS = Preprocessing(36, 32)
SECONDS = 3.0  # of decoding; otherwise the limits are the service's own


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
        return asyncio.run_coroutine_threadsafe(self._copied(body), self.loop).result(60)

    async def _copied(self, body: bytes) -> Pixels:
        block, _ = await self.decoders.decode(body, STEPS)
        pixels: Pixels = block.pixels[0].copy()
        block.release()
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


def test_the_seeds_decode_and_can_be_taken_apart_and_joined(decoding: Decoding, originals: list[bytes]) -> None:
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

    warm_up = case_count(2000)
    with ThreadPoolExecutor(2) as pool:  # as many as there are decoders: nothing waits
        list(pool.map(outcome, range(warm_up)))
        before = decoding.resident()
        outcomes = Counter(pool.map(outcome, range(warm_up, case_count(6000))))
    after = decoding.resident()
    assert all(outcomes[kind] > case_count(100) for kind in ("pixels", "BadImage", "NotAnImage")), outcomes
    assert outcomes["TooLarge"] > case_count(20), outcomes
    assert set(decoding.restarts) <= {"hung"}
    assert decoding.longest < SECONDS + 20
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
    assert decoding.longest < SECONDS + 20
