"""The real decoder processes, with real faults."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.decoding.image_decoding import decode, decode_and_measure
from app.decoding.oip_tensors import CHARSETS
from app.decoding.overlay import draw_overlay
from app.decoding.overlay_bounds import MAX_OVERLAY_BYTES
from app.decoding.pool import DecoderPool, _check_overlay, _check_size
from app.errors import BadImage, BadInference, NotAnImage, NotReady, TooLarge, TooLate
from app.processes.channel import INVALID_ANSWER
from model.files.formats import FORMATS
from model.spec import Preprocessing
from tests.support.pictures import encoded, scene
from tests.support.pixel_blocks import used_bytes
from tests.support.processes import own_cpu_seconds, workers
from tests.support.waiting import until

STEPS = Preprocessing(256, 224)
GRIDS = [[[1.0, -0.5], [0.0, 0.25]], [[0.5]]]
LIMIT = 50_000_000
PNG = encoded(scene(300, 280))
HUGE = encoded(Image.new("RGB", (7000, 7000)))  # takes 0.2 s or more


@asynccontextmanager
async def decoding(**options: Any) -> AsyncIterator[tuple[DecoderPool, list[str]]]:
    restarts: list[str] = []
    given = {"count": 1, "max_pixels": 50_000_000, "seconds": 10, "memory_bytes": 1 << 30} | options
    async with DecoderPool(**given, on_restart=restarts.append) as decoders:
        await decoders.start()
        yield decoders, restarts


async def until_busy(decoders: list[int]) -> None:
    """Return when each of these processes works."""
    used = {pid: own_cpu_seconds(pid) for pid in decoders}
    await until(lambda: all(own_cpu_seconds(pid) > used[pid] for pid in decoders))


async def assert_right(decoders: DecoderPool) -> None:
    block, span = await decoders.decode(PNG, STEPS)
    assert np.array_equal(block.pixels[0], decode(PNG, STEPS, 10**6))
    block.release()
    assert 0 < span.seconds < 10


def test_pixels_are_those_of_decode() -> None:
    async def main() -> None:
        async with decoding(count=2) as (decoders, restarts):
            await asyncio.gather(*(assert_right(decoders) for _ in range(20)))
            assert len(workers(os.getpid(), "decoder")) == 2
        assert restarts == []
        assert workers(os.getpid(), "decoder") == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"no image", NotAnImage, "not a JPEG"),
        (b"", NotAnImage, "the file is empty"),
        (PNG[:2000], BadImage, "the PNG image is incomplete: the file ends before its last pixels"),
        (encoded(Image.new("1", (7072, 7072))), TooLarge, "the image has 7072 x 7072 pixels"),
    ],
)
def test_errors_are_those_of_decode_and_cost_no_worker(body: bytes, error: type[Exception], message: str) -> None:
    async def main() -> None:
        async with decoding() as (decoders, restarts):
            with pytest.raises(error, match=message):
                await decoders.decode(body, STEPS)
            await assert_right(decoders)
            assert restarts == []

    asyncio.run(main())


def test_an_image_that_takes_too_long_costs_its_worker_and_no_more() -> None:
    async def main() -> None:
        async with decoding(seconds=0.1) as (decoders, restarts):
            with pytest.raises(BadImage, match=r"the image takes longer than 0\.1 s to decode"):
                await decoders.decode(HUGE, STEPS)
            assert restarts == ["hung"]
            await assert_right(decoders)

    asyncio.run(main())


def test_a_picture_is_measured_and_drawn_over_in_a_sealed_worker() -> None:
    async def main() -> None:
        async with decoding() as (decoders, restarts):
            for kind in FORMATS:
                body = encoded(scene(300, 200), kind)
                block, size, _ = await decoders.decode_and_measure(body, STEPS)
                pixels, measured = decode_and_measure(body, STEPS, 10**6)
                assert np.array_equal(block.pixels[0], pixels), kind
                assert size == measured, kind
                block.release()
                png, span = await decoders.overlay(body, STEPS, GRIDS, 0.5)
                assert png == draw_overlay(body, STEPS, GRIDS, 0.5, 10**6), kind
                assert span.seconds > 0
            assert used_bytes(decoders) == 0
            assert restarts == []

    asyncio.run(main())


@pytest.mark.parametrize("values", [[], [300], [0, 5], [-3, -4], [300.0, 200], [True, 1], ["3", 2], [10**5, 10**5]])
def test_a_decoder_that_gives_an_impossible_size_is_found_out(values: list[object]) -> None:
    _check_size(LIMIT, [300, 200], [])
    with pytest.raises(INVALID_ANSWER):
        _check_size(LIMIT, values, [])


@pytest.mark.parametrize("values", [[], [0], [-1], [1.5], [True], ["x"], [None], [1, 2], [MAX_OVERLAY_BYTES + 1]])
def test_a_decoder_that_gives_an_impossible_overlay_is_found_out(values: list[object]) -> None:
    _check_overlay([MAX_OVERLAY_BYTES], [])
    with pytest.raises(INVALID_ANSWER):
        _check_overlay(values, [])


def test_drawing_has_the_limits_of_decoding() -> None:
    async def main() -> None:
        async with decoding(seconds=0.1) as (decoders, restarts):
            with pytest.raises(BadImage, match=r"the image takes longer than 0\.1 s to decode"):
                await decoders.overlay(HUGE, STEPS, GRIDS, 1.0)
            assert restarts == ["hung"]
            with pytest.raises(TooLate):
                await decoders.overlay(PNG, STEPS, GRIDS, 1.0, deadline=time.perf_counter())
        async with decoding(memory_bytes=64 << 20, max_pixels=49_000_000) as (decoders, restarts):
            with pytest.raises(BadImage, match="takes more memory to decode than it may"):
                await decoders.overlay(HUGE, STEPS, GRIDS, 1.0)
            with pytest.raises(TooLarge, match="over the limit of 49,000,000"):
                await decoders.overlay(encoded(Image.new("1", (7001, 7001))), STEPS, GRIDS, 1.0)
            assert restarts == []

    asyncio.run(main())


def test_an_image_that_takes_too_much_memory_is_refused() -> None:
    async def main() -> None:
        async with decoding(memory_bytes=64 << 20) as (decoders, restarts):
            with pytest.raises(BadImage, match="the PNG image takes more memory to decode than it may"):
                await decoders.decode(HUGE, STEPS)
            await assert_right(decoders)
            assert restarts == []

    asyncio.run(main())


def test_a_decoder_that_crashes_costs_its_image_and_no_other() -> None:
    async def main() -> None:
        async with decoding(count=2) as (decoders, restarts):
            doomed, _ = workers(os.getpid(), "decoder")
            work = [asyncio.create_task(decoders.decode(HUGE, STEPS)) for _ in range(2)]
            await until_busy([doomed])
            os.kill(doomed, signal.SIGSEGV)
            results = await asyncio.gather(*work, return_exceptions=True)
            assert sorted(type(result).__name__ for result in results) == ["BadImage", "tuple"]
            assert restarts == ["died"]
            await asyncio.gather(*(assert_right(decoders) for _ in range(4)))

    asyncio.run(main())


def test_a_decoder_that_ended_between_images_costs_none() -> None:
    async def main() -> None:
        async with decoding() as (decoders, restarts):
            os.kill(workers(os.getpid(), "decoder")[0], signal.SIGKILL)
            await until(lambda: restarts)
            await assert_right(decoders)
            assert restarts == ["ended"]

    asyncio.run(main())


def test_images_whose_requests_have_gone_are_not_decoded() -> None:
    async def main() -> None:
        async with decoding() as (decoders, _):
            (decoder,) = workers(os.getpid(), "decoder")
            used = own_cpu_seconds(decoder)
            await decoders.decode(HUGE, STEPS)
            seconds = own_cpu_seconds(decoder) - used
            work = [asyncio.create_task(decoders.decode(HUGE, STEPS)) for _ in range(50)]
            await until_busy([decoder])
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await assert_right(decoders)
            assert own_cpu_seconds(decoder) - used < 20 * seconds  # two were decoded, and not 51

    asyncio.run(main())


def test_an_image_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    async def main() -> None:
        scans = encoded(scene(64, 64), "JPEG", progressive=True)
        last = scans.rindex(b"\xff\xda")
        async with decoding() as (decoders, _):
            await decoders.decode(scans, STEPS)
            with pytest.raises(BadImage, match="more than 100 scans"):
                await decoders.decode(scans[:last] + 400 * scans[last:-2] + scans[-2:], STEPS)

    asyncio.run(main())


def test_no_worker_begins_with_what_is_too_late() -> None:
    async def main() -> None:
        async with decoding() as (decoders, _):
            with pytest.raises(TooLate):
                await decoders.decode(PNG, STEPS, deadline=time.perf_counter())
            await decoders.decode(PNG, STEPS, deadline=time.perf_counter() + 60)

    asyncio.run(main())


def test_every_format_decodes_in_a_sealed_worker() -> None:
    async def main() -> None:
        async with decoding() as (decoders, _):
            for kind in FORMATS:
                body = encoded(scene(300, 280), kind)
                block, _ = await decoders.decode(body, STEPS)
                assert np.array_equal(block.pixels[0], decode(body, STEPS, 10**6)), kind
                block.release()

    asyncio.run(main())


def test_json_in_every_charset_is_read_in_a_sealed_worker() -> None:
    text = '{"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["b25l"]}], "id": "\u00fc"}'

    async def main() -> None:
        for charset in CHARSETS:
            async with decoding() as (decoders, restarts):
                asked, files = await decoders.inference(text.encode(charset), json_bytes=None, max_images=1)
                assert (asked.id, files, restarts) == ("\u00fc", [b"one"], []), charset

    asyncio.run(main())


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf\xff", b"\xff\xfe{", b"\x00{\xd8\x00", b"{\x00\x00\x00\xff", b"\xff\xfe\x00\x00{"]
)
def test_json_in_an_unknown_charset_is_refused_in_a_sealed_worker(body: bytes) -> None:
    async def main() -> None:
        async with decoding() as (decoders, restarts):
            with pytest.raises(BadInference, match="is not JSON"):
                await decoders.inference(body, json_bytes=None, max_images=1)
            assert restarts == []

    asyncio.run(main())


def test_decoders_decode_large_jpegs_smaller_if_they_are_told_to() -> None:
    body = encoded(scene(1200, 900), "JPEG")

    async def main() -> None:
        for scaled in (False, True):
            async with decoding(scaled_jpeg=scaled) as (decoders, _):
                block, _ = await decoders.decode(body, STEPS)
                assert np.array_equal(block.pixels[0], decode(body, STEPS, LIMIT, scaled_jpeg=scaled))

    asyncio.run(main())


@pytest.mark.parametrize("count", [1, 2])
def test_a_decoder_that_ends_while_it_has_nothing_to_do_is_replaced_before_an_image_meets_it(count: int) -> None:
    async def main() -> None:
        async with decoding(count=count) as (decoders, restarts):
            for number in range(1, 3):
                await assert_right(decoders)
                before = workers(os.getpid(), "decoder")
                os.kill(before[0], signal.SIGKILL)
                await until(lambda number=number: restarts == ["ended"] * number)  # type: ignore[misc]
                await until(lambda before=before: len({*workers(os.getpid(), "decoder")} - {*before}) == 1)  # type: ignore[misc]
            await asyncio.gather(*(assert_right(decoders) for _ in range(4)))

    asyncio.run(main())


def test_a_decoder_that_speaks_unasked_is_replaced() -> None:
    async def main() -> None:
        async with decoding() as (decoders, restarts):
            (worker,) = decoders._workers
            worker.connection.shutdown(socket.SHUT_WR)  # what the process does about that is to end
            await until(lambda: restarts == ["ended"])
            await assert_right(decoders)

    asyncio.run(main())


def test_while_no_process_can_be_started_images_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0
    pauses: list[float] = []

    def no_process(*_: object, **__: object) -> None:
        nonlocal attempts
        attempts += 1
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0.02)

    async def main() -> None:
        async with decoding(sleep=sleep) as (decoders, restarts):
            with monkeypatch.context() as patch:
                patch.setattr(subprocess, "Popen", no_process)
                os.kill(workers(os.getpid(), "decoder")[0], signal.SIGKILL)
                await until(lambda: attempts)
                with pytest.raises(NotReady, match="no decoder could be started; the log says why") as caught:
                    await decoders.decode(PNG, STEPS)
                assert caught.value.retry_after
                await until(lambda: len(pauses) > 3)
            assert pauses[:4] == [0, 0.5, 1, 2]  # at once, then after longer and longer pauses
            assert attempts <= len(pauses)
            async with asyncio.timeout(30):
                await until(lambda: decoders._serving)
                await assert_right(decoders)
            assert restarts == ["ended"]

    asyncio.run(main())
    assert "no decoder can be started, the next attempt is in" in caplog.text
    assert len(workers(os.getpid(), "decoder")) == 0


def test_while_no_thread_can_be_started_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name.startswith("decoder"):
            raise RuntimeError("can't start new thread")
        real(thread)

    async def sleep(_: float) -> None:
        await asyncio.sleep(0.02)

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            async with DecoderPool(
                count=1, max_pixels=LIMIT, seconds=10, memory_bytes=1 << 30, sleep=sleep
            ) as decoders:
                with pytest.raises(NotReady, match="no decoder could be started; the log says why"):
                    await decoders.decode(PNG, STEPS)
                patch.undo()
                await until(lambda: decoders._serving)
                await assert_right(decoders)

    asyncio.run(main())
    assert workers(os.getpid(), "decoder") == []


def test_one_callers_slow_images_do_not_hold_up_anothers() -> None:
    async def main() -> None:
        async with decoding() as (decoders, _):
            slow = [asyncio.create_task(decoders.decode(HUGE, STEPS, caller="slow")) for _ in range(20)]
            await until_busy(workers(os.getpid(), "decoder"))
            for _ in range(3):
                await decoders.decode(PNG, STEPS, caller="other")
            assert sum(task.done() for task in slow) <= 4  # one at most was before each
            assert decoders.seconds_to_empty() > 1
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(main())


def test_an_image_that_comes_in_the_moment_in_which_an_idle_decoder_has_ended_is_decoded_by_the_next() -> None:
    async def main() -> None:
        async with decoding() as (decoders, restarts):
            (decoder,) = workers(os.getpid(), "decoder")
            os.kill(decoder, signal.SIGKILL)
            time.sleep(0.2)  # noqa: ASYNC251, the event loop must not see its end before the images are there
            await asyncio.gather(*(assert_right(decoders) for _ in range(3)))
            assert restarts == ["ended"]

    asyncio.run(main())


def test_an_image_that_waits_for_memory_does_not_pay_for_a_decoder_that_ends_meanwhile() -> None:
    async def main() -> None:
        size = 3 * STEPS.crop**2 + len(PNG)
        async with decoding(shared_bytes=size + 8192) as (decoders, restarts):
            held, _ = await decoders.decode(PNG, STEPS)
            waiting = asyncio.create_task(assert_right(decoders))
            late = asyncio.create_task(decoders.decode(PNG, STEPS, time.perf_counter() + 0.1))
            await asyncio.sleep(0.05)
            (decoder,) = workers(os.getpid(), "decoder")
            os.kill(decoder, signal.SIGKILL)
            await asyncio.sleep(0.2)
            held.release()
            await waiting
            with pytest.raises(TooLate):
                await late
            assert restarts == ["ended"]

    asyncio.run(main())
