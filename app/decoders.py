"""Decoding, away from the service: a few worker processes with a time and memory cap, replaced when they fail."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from app.errors import BadImage, NotReady, TooLate
from app.image import Pixels
from app.span import Span
from app.worker import Arrays, Limits, Values, Worker, WorkerDied, WorkerFailed, WorkerHung
from model.spec import Preprocessing

T = TypeVar("T")

log = logging.getLogger(__name__)

_START_SECONDS = 60


class Decoders:
    """`count` workers; what they are given waits in order. Leaving the context ends them.

    `max_pixels` and `scaled_jpeg` are as for app.image.decode. `on_restart` is called with a reason each time a worker
    had to be replaced.
    """

    def __init__(
        self,
        *,
        count: int,
        max_pixels: int,
        scaled_jpeg: bool = False,
        seconds: float,
        memory_bytes: int,
        on_restart: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._given = [max_pixels, scaled_jpeg]
        self._seconds = seconds
        self._limits = Limits(memory_bytes=memory_bytes, sealed=True)
        self._on_restart = on_restart
        # Each thread has one worker, and does nothing but wait for it.
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._mine = threading.local()
        self._workers: set[Worker] = set()
        self._closed = False
        self.count = count

    async def __aenter__(self) -> "Decoders":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        for worker in list(self._workers):
            worker.kill()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def start(self) -> None:
        """Start the workers now, and not with what they are first given; NotReady if that cannot be."""
        await asyncio.gather(*(self._in_thread(lambda _: None) for _ in range(self.count)))

    async def decode(self, body: bytes, steps: Preprocessing, deadline: float = math.inf) -> tuple[Pixels, Span]:
        """The pixels that the network sees, and when they were made; raises as app.image.decode does.

        No worker begins with it after `deadline`, on the clock of time.perf_counter: TooLate.
        """
        _, (pixels,), span = await self.call("image", [steps.resize, steps.crop], body, deadline)
        expected = (steps.crop, steps.crop, 3)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise BadImage("the image could not be decoded")
        return pixels, span

    async def call(
        self, method: str, values: Values, body: bytes, deadline: float = math.inf
    ) -> tuple[Values, Arrays, Span]:
        """What the method of app.decoder.Decoder returns. BadImage if it costs the worker its life."""
        return await self._in_thread(lambda worker: self._guarded(worker, method, values, body, deadline))

    async def _in_thread(self, call: Callable[[Worker], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(self._worker()))

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self._mine, "worker", None)
        if worker is not None and worker.alive:
            return worker
        if worker is not None:
            self._lost(worker, "ended")
        try:
            worker = Worker(
                "decoder",
                "app.decoder:Decoder",
                self._given,
                seconds=_START_SECONDS,
                limits=self._limits,
                on_spawn=self._spawned,
            )
        except (WorkerDied, WorkerHung, WorkerFailed, OSError) as err:
            if not self._closed:
                log.exception("no decoder can be started")
            raise NotReady("no decoder could be started", retry_after=5) from err
        self._mine.worker = worker
        return worker

    def _spawned(self, worker: Worker) -> None:
        self._workers.add(worker)
        if self._closed:
            raise WorkerDied("closed meanwhile")

    def _guarded(
        self, worker: Worker, method: str, values: Values, body: bytes, deadline: float
    ) -> tuple[Values, Arrays, Span]:
        started = time.perf_counter()
        if started >= deadline:
            raise TooLate("the request's deadline has passed before its image was decoded")
        try:
            results, arrays = worker.call(method, values, [np.frombuffer(body, np.uint8)], seconds=self._seconds)
        except WorkerHung as err:
            self._lost(worker, "hung")
            raise BadImage(f"the image takes longer than {self._seconds:g} s to decode") from err
        except WorkerDied as err:
            log.warning("a decoder was lost: %s", err)
            self._lost(worker, "died")
            raise BadImage("the image cannot be decoded") from err
        except WorkerFailed as err:
            log.error("a decoder failed: %s", err)
            self._lost(worker, "failed")
            raise BadImage("the image cannot be decoded") from err
        return results, arrays, Span(started, time.perf_counter())

    def _lost(self, worker: Worker, reason: str) -> None:
        worker.kill()
        self._workers.discard(worker)
        self._mine.worker = None
        self._on_restart(reason)
