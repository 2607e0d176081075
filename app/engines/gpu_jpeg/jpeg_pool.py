"""Decoders of which one is a GPU: plain JPEGs go to it, in batches, and all else to the CPU's."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from app.decoding.decoder_memory import DecoderMemory, PixelBlock, claimed
from app.decoding.pool import DecoderPool
from app.engines.gpu_jpeg.jpeg_decoder import NAME
from app.engines.gpu_jpeg.jpeg_header import plain
from app.processes.channel import EMPTY_REPLY, Arrays, Reply, Values
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from app.timing import Interval
from model.spec import PREPROCESSING, Preprocessing

log = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 20  # of an answer, apart from its pixels
_LARGEST_BATCH = 64  # JPEGs in a call
_SHARED_BYTES = 1 << 30  # of the memory in which pixels cross; what is not used takes none
_TESTED_STEPS = PREPROCESSING[224]  # for which the GPU is tried when it starts; for others at their first JPEG


@dataclass(eq=False)
class _Waiting:
    """A JPEG that waits for the GPU; the answer is None where the GPU does not decode it."""

    body: bytes
    steps: Preprocessing
    answer: asyncio.Future[tuple[PixelBlock, Interval] | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class GpuJpegPool(DecoderPool):
    """A pool of decoders that has plain JPEGs decoded on the GPU, in a process of its own.

    The GPU's decoder is compared with the CPU's before it is used. A JPEG that it does not decode goes to the CPU's
    decoders, whose errors are the ones that clients see. After a crash, a hang or an error, the GPU decodes nothing any
    more: bytes from outside do not get to end its process twice.

    Args:
        max_pixels: of an image, for either way.
        seconds: that a call of either way may take.
        load_seconds: that the start of the GPU's process may take.
        more: further arguments of DecoderPool.
    """

    def __init__(self, *, max_pixels: int, seconds: float, load_seconds: float, **more: Any) -> None:
        super().__init__(max_pixels=max_pixels, seconds=seconds, **more)
        self._call_seconds = seconds
        self._load_seconds = load_seconds
        self._gpu_refused: str | None = None
        self._gpu: Worker | None = None
        self._gpu_steps: set[Preprocessing] = set()
        self._waiting_jpegs: list[_Waiting] = []
        self._jpeg_arrived = asyncio.Event()
        self._gpu_thread = ThreadPoolExecutor(1, thread_name_prefix="jpeg-gpu")
        self._gpu_ending = False
        self._gpu_memory = DecoderMemory(self.count, _SHARED_BYTES)

    @property
    def files(self) -> list[int]:
        return [*super().files, self._gpu_memory.file]

    @property
    def refused(self) -> dict[str, str]:
        return {NAME: self._gpu_refused} if self._gpu_refused else {}

    async def __aenter__(self) -> "GpuJpegPool":
        await super().__aenter__()
        self._gpu_started = asyncio.create_task(self._start_gpu())
        self._gpu_work = asyncio.create_task(self._decode_waiting())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._gpu_ending = True
        self._gpu_work.cancel()
        if self._gpu is not None:
            await asyncio.to_thread(self._gpu.kill)
        await asyncio.gather(self._gpu_started, self._gpu_work, return_exceptions=True)
        for jpeg in self._waiting_jpegs:
            _settle(jpeg, None)
        await asyncio.to_thread(self._gpu_thread.shutdown, cancel_futures=True)
        await super().__aexit__(*exception)
        self._gpu_memory.close()

    async def start(self) -> None:
        await super().start()
        await asyncio.shield(self._gpu_started)

    async def decode(
        self, body: bytes, steps: Preprocessing, deadline: float = math.inf, *, caller: str = ""
    ) -> tuple[PixelBlock, Interval]:
        await asyncio.shield(self._gpu_started)
        # In a thread: a large one is read to its end.
        if self._gpu_refused is None and await asyncio.to_thread(plain, body, self._max_pixels) is not None:
            decoded = await self._by_gpu(body, steps)
            if decoded is not None:
                return decoded
        return await super().decode(body, steps, deadline, caller=caller)

    async def _by_gpu(self, body: bytes, steps: Preprocessing) -> tuple[PixelBlock, Interval] | None:
        jpeg = _Waiting(body, steps)
        self._waiting_jpegs.append(jpeg)
        self._jpeg_arrived.set()
        return await claimed(jpeg.answer, _release)

    async def _decode_waiting(self) -> None:
        """Decode what waits, a batch at a time; what comes meanwhile is the next batch."""
        while True:
            await self._jpeg_arrived.wait()
            waiting = [jpeg for jpeg in self._waiting_jpegs if not jpeg.answer.done()]  # the others' requests have gone
            batch = [jpeg for jpeg in waiting if jpeg.steps == waiting[0].steps][:_LARGEST_BATCH]
            self._waiting_jpegs = [jpeg for jpeg in waiting if jpeg not in batch]
            if not batch:
                self._jpeg_arrived.clear()
                continue
            decoded = await self._call_gpu(batch)
            for index, jpeg in enumerate(batch):
                _settle(jpeg, decoded.get(index))

    async def _call_gpu(self, batch: Sequence[_Waiting]) -> dict[int, tuple[PixelBlock, Interval]]:
        """What the GPU decodes of `batch`, by index."""
        if self._gpu_refused is not None:
            return {}
        shape = (1, batch[0].steps.crop, batch[0].steps.crop, 3)
        blocks = [await self._gpu_memory.take(math.prod(shape)) for _ in batch]
        began = time.perf_counter()
        indices: Values = []
        try:
            indices = await self._in_gpu_thread(lambda: self._decoded(batch, [block.offset for block in blocks]))
        except (WorkerDied, WorkerHung, WorkerFailed) as err:
            self._give_up("it failed while it decoded; the log says how", err)
        finally:
            for index in {*range(len(batch))} - {*indices}:
                blocks[index].release()
        span = Interval(began, time.perf_counter())
        return {index: (PixelBlock(self._gpu_memory, blocks[index], shape), span) for index in indices}

    def _decoded(self, batch: Sequence[_Waiting], offsets: list[int]) -> Values:
        """The indices of the JPEGs in `batch` whose pixels are at their `offsets` now."""
        assert self._gpu is not None
        steps = batch[0].steps
        size = [steps.resize, steps.crop]
        if steps not in self._gpu_steps:
            self._open_gpu(steps)
            if self._gpu_refused is not None:
                return []
        reply = Reply(_HEAD_BYTES, 0, raises=(), check=partial(_check_decoded, len(batch)))
        bodies = [np.frombuffer(jpeg.body, np.uint8) for jpeg in batch]
        indices, _ = self._gpu.call("decode", [*size, offsets], [*bodies], seconds=self._call_seconds, reply=reply)
        return indices

    async def _start_gpu(self) -> None:
        try:
            await self._in_gpu_thread(self._spawn_gpu)
        except (WorkerDied, WorkerHung, WorkerFailed, OSError) as err:
            last_line = str(err).strip().rpartition("\n")[2]
            self._give_up(f"its process failed when it was tried: {last_line}", err)

    def _spawn_gpu(self) -> None:
        Worker(
            "jpeg-gpu",
            "app.engines.gpu_jpeg.jpeg_host:JpegHost",
            [self._max_pixels],
            seconds=self._load_seconds,
            files=[self._gpu_memory.file],
            keep_environment=True,
            on_spawn=self._gpu_spawned,
        )
        self._open_gpu(_TESTED_STEPS)

    def _gpu_spawned(self, worker: Worker) -> None:
        self._gpu = worker
        if self._gpu_ending:
            raise WorkerDied("closed meanwhile")

    def _open_gpu(self, steps: Preprocessing) -> None:
        """Have the GPU's decoder for `steps` compared with the CPU's."""
        assert self._gpu is not None
        (reason,), _ = self._gpu.call(
            "open", [steps.resize, steps.crop], [], seconds=self._load_seconds, reply=EMPTY_REPLY
        )
        if reason is not None:
            self._give_up(reason)
        else:
            self._gpu_steps.add(steps)

    def _give_up(self, reason: str, err: Exception | None = None) -> None:
        if self._gpu is not None:
            self._gpu.kill()
        if self._gpu_ending or self._gpu_refused is not None:
            return
        if err is not None:
            log.error("decoding JPEGs on the GPU failed: %s", err)
        log.warning("JPEGs are decoded on the CPU: %s", reason)
        self._gpu_refused = reason

    async def _in_gpu_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._gpu_thread, call)


def _settle(jpeg: _Waiting, decoded: tuple[PixelBlock, Interval] | None) -> None:
    if jpeg.answer.done():  # its request has gone
        _release(decoded)
    else:
        jpeg.answer.set_result(decoded)


def _release(decoded: tuple[PixelBlock, Interval] | None) -> None:
    if decoded is not None:
        decoded[0].release()


def _check_decoded(count: int, values: Values, _: Arrays) -> None:
    """ValueError unless `values` are indices of JPEGs in a batch of `count`."""
    if any(type(index) is not int for index in values) or values != sorted({*values} & {*range(count)}):
        raise ValueError("not the indices of what was decoded")
