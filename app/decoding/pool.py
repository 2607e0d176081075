"""The HTTP process's side of decoding: worker processes with a time and memory cap, replaced when they fail."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.decoding.fair_queue import FairQueue, Turn
from app.decoding.oip_tensors import ENCODED, IMAGE, InferenceRequest
from app.errors import BadImage, BadInference, NotAnImage, NotReady, TooLarge, TooLate
from app.processes.channel import Arrays, Limits, Reply, Values
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from app.timing import Interval
from bundle.bundle_errors import ExplainedError
from model.preprocess import Pixels
from model.spec import Preprocessing

log = logging.getLogger(__name__)

_START_SECONDS = 60
_MAX_HEAD_BYTES = 1 << 20  # of an answer, apart from its arrays
_FIRST_PAUSE = 0.5  # seconds between attempts to start a decoder
_LONGEST_PAUSE = 30.0
_CANNOT_START = "no decoder could be started; the log says why"


@dataclass(eq=False)
class _Job:
    """A call of a method of app.decoding.decoder_worker.Decoder, and the future of its answer."""

    method: str
    values: Values
    body: bytes
    reply: Reply
    deadline: float
    answer: asyncio.Future[tuple[Values, Arrays, Interval]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, err: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(err)


class DecoderPool:
    """Decoder processes that share their time fairly between callers; the jobs of one caller wait in order.

    They start with the context, and leaving it ends them. One that fails, or ends while it is idle, is replaced at
    once. Each process has a thread that waits for it, so that its calls do not block the event loop.

    Args:
        count: number of processes.
        max_pixels: as for app.decoding.image_decoding.decode.
        scaled_jpeg: as for app.decoding.image_decoding.decode.
        seconds: the longest time for one job; then its process is killed.
        memory_bytes: the memory that a process may take for a job.
        on_restart: is called with a reason each time a process had to be replaced.
        sleep: pauses for so many seconds between the attempts to start a process.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._decoder_values = [max_pixels, scaled_jpeg]
        self._seconds = seconds
        self._limits = Limits(memory_bytes=memory_bytes, sealed=True)
        self._on_restart = on_restart
        self._sleep = sleep
        self._queue = FairQueue[_Job]()
        self._idle: deque[asyncio.Future[Turn[_Job] | None]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._threads: set[ThreadPoolExecutor] = set()  # each waits for one worker
        self._workers: set[Worker] = set()
        self._serving = 0
        self._retry_after: int | None = None  # seconds, while no worker can be started and none is left
        self._changed = asyncio.Event()  # set when _serving or _retry_after changes
        self._closed = False
        self.count = count

    async def __aenter__(self) -> "DecoderPool":
        self._tasks = [asyncio.create_task(self._keep_one()) for _ in range(self.count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        workers = list(self._workers)
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0)  # the tasks stop watching the connections before these are closed
        for worker in workers:
            worker.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for thread in list(self._threads):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)
        self._refuse_waiting(NotReady("the service is stopping"))

    @property
    def refused(self) -> dict[str, str]:
        """Why a faster way of decoding that was requested is not taken, by its name."""
        return {}

    async def start(self) -> None:
        """Wait until all workers run; NotReady if none can be started."""
        while self._serving < self.count:
            self._check()
            self._changed.clear()
            await self._changed.wait()

    def seconds_to_empty(self) -> float:
        """The expected time until all waiting jobs are done."""
        return self._queue.seconds() / self.count

    async def decode(
        self, body: bytes, steps: Preprocessing, deadline: float = math.inf, *, caller: str = ""
    ) -> tuple[Pixels, Interval]:
        """The pixels that the network sees, (crop, crop, 3), and the time of decoding. Raises as decode does.

        Raises TooLate if no worker begins before `deadline`, on the clock of time.perf_counter; BadImage if the worker
        dies or hangs; NotReady if there is no worker. The time of decoding is charged to `caller`.
        """
        shape = (steps.crop, steps.crop, 3)
        reply = Reply(
            _MAX_HEAD_BYTES, math.prod(shape), (NotAnImage, TooLarge, BadImage), partial(_check_pixels, shape)
        )
        _, (pixels,), interval = await self._run(
            caller, _Job("image", [steps.resize, steps.crop], body, reply, deadline)
        )
        return pixels, interval

    async def inference(
        self,
        body: bytes,
        *,
        json_bytes: int | None,
        max_images: int,
        deadline: float = math.inf,
        caller: str = "",
    ) -> tuple[InferenceRequest, Sequence[NDArray[np.uint8]]]:
        """The result of app.decoding.oip_tensors.read_inputs; raises as that and as `decode` do."""
        # Tensors are never larger than the body that they come in.
        reply = Reply(_MAX_HEAD_BYTES, len(body), (BadInference, TooLarge), partial(_check_inference, max_images))
        values, arrays, _ = await self._run(caller, _Job("inference", [json_bytes, max_images], body, reply, deadline))
        return InferenceRequest.model_validate(values[0]), arrays

    async def _run(self, caller: str, job: _Job) -> tuple[Values, Arrays, Interval]:
        """Queue `job` and await its answer."""
        self._check()
        self._queue.put(caller, job)
        self._hand_out()
        try:
            return await job.answer
        finally:
            self._queue.discard(caller, job)  # if its request has gone

    def _check(self) -> None:
        """NotReady if there is no worker, and none can be started."""
        if self._retry_after is not None:
            raise NotReady(_CANNOT_START, retry_after=self._retry_after)

    def _hand_out(self) -> None:
        """Give waiting jobs to idle workers."""
        while self._idle and (turn := self._queue.take()) is not None:
            self._idle.popleft().set_result(turn)

    def _refuse_waiting(self, err: NotReady) -> None:
        for job in self._queue.clear():
            job.fail(NotReady(str(err), err.retry_after))  # an instance each: tracebacks are added to it

    async def _keep_one(self) -> None:
        """Keep one worker running. One that decoded something is replaced at once, others after growing pauses."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")
            self._threads.add(thread)
            try:
                worker = await loop.run_in_executor(thread, self._start)
                if await self._serve(worker, thread):
                    pause = 0.0
            except Exception as err:  # no process, thread or memory: the next attempt may succeed
                pause = max(pause, _FIRST_PAUSE)
                self._cannot_start(err, pause)
            finally:
                thread.shutdown(wait=False)
                if not self._closed:
                    self._threads.discard(thread)
            await self._sleep(pause)
            pause = min(max(_FIRST_PAUSE, 2 * pause), _LONGEST_PAUSE)

    def _start(self) -> Worker:
        return Worker(
            "decoder",
            "app.decoding.decoder_worker:Decoder",
            self._decoder_values,
            seconds=_START_SECONDS,
            limits=self._limits,
            on_spawn=self._spawned,
        )

    def _spawned(self, worker: Worker) -> None:
        self._workers.add(worker)
        if self._closed:
            raise WorkerDied("the pool was closed meanwhile")

    def _cannot_start(self, err: Exception, pause: float) -> None:
        self._workers = {worker for worker in self._workers if worker.alive}
        log.error("no decoder can be started, the next attempt is in %g s: %s", pause, err)
        if not self._serving:
            self._retry_after = math.ceil(pause)
            self._refuse_waiting(NotReady(_CANNOT_START, self._retry_after))
            self._changed.set()

    async def _serve(self, worker: Worker, thread: ThreadPoolExecutor) -> bool:
        """Give jobs to `worker` until it ends; True if it had any."""
        loop = asyncio.get_running_loop()
        self._serving += 1
        self._retry_after = None
        self._changed.set()
        served = False
        reason: str | None = None
        try:
            while reason is None:
                turn = await self._turn(worker)
                if turn is None or not worker.alive:
                    if turn is not None:
                        self._queue.give_back(turn)  # another worker decodes it
                    end = await loop.run_in_executor(thread, worker.describe_end)
                    log.warning("a decoder was lost between images: %s", end)
                    reason = "ended"
                    self._on_restart(reason)
                else:
                    served = True
                    reason = await self._decode_next(turn, worker, thread)
            await loop.run_in_executor(thread, worker.kill)  # takes a moment, unless the process has ended
        finally:
            worker.kill()
            self._serving -= 1
            self._workers.discard(worker)
        self._hand_out()
        return served

    async def _turn(self, worker: Worker) -> Turn[_Job] | None:
        """The next job for `worker`, or None once the worker has ended."""
        if not worker.alive:
            return None
        turn = self._queue.take()
        if turn is not None:
            return turn
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Turn[_Job] | None] = loop.create_future()
        self._idle.append(waiting)
        file = worker.fileno()
        loop.add_reader(file, _stop_waiting, waiting)
        try:
            return await waiting
        finally:
            loop.remove_reader(file)
            if waiting in self._idle:
                self._idle.remove(waiting)

    async def _decode_next(self, turn: Turn[_Job], worker: Worker, thread: ThreadPoolExecutor) -> str | None:
        """Answer the job of `turn`; the reason if the worker was lost by it."""
        job, started = turn.item, time.perf_counter()
        if job.answer.done() or started >= job.deadline:  # its request has gone, or is too late
            self._queue.drop(turn)
            job.fail(TooLate("the request's deadline has passed before its image was decoded"))
            return None
        body = [np.frombuffer(job.body, np.uint8)]
        call = partial(worker.call, job.method, job.values, body, seconds=self._seconds, reply=job.reply)
        try:
            values, arrays = await asyncio.get_running_loop().run_in_executor(thread, call)
            if not job.answer.done():
                job.answer.set_result((values, arrays, Interval(started, time.perf_counter())))
        except WorkerHung:
            return self._lost(job, "hung", f"the image takes longer than {self._seconds:g} s to decode")
        except WorkerDied as err:
            log.warning("a decoder was lost: %s", err)
            return self._lost(job, "died", "the image cannot be decoded")
        except WorkerFailed as err:
            log.error("a decoder failed: %s", err)
            return self._lost(job, "failed", "the image cannot be decoded")
        except ExplainedError as err:
            job.fail(err)
        except asyncio.CancelledError:
            job.fail(NotReady("the service is stopping"))
            raise
        finally:
            self._queue.over(turn, time.perf_counter() - started)
        return None

    def _lost(self, job: _Job, reason: str, message: str) -> str:
        if not self._closed:
            self._on_restart(reason)
        job.fail(BadImage(message))
        return reason


def _stop_waiting(waiting: asyncio.Future[Turn[_Job] | None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _check_pixels(shape: tuple[int, ...], values: Values, arrays: Arrays) -> None:
    (pixels,) = arrays
    if values or pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError("not the requested pixels")


def _check_inference(max_images: int, values: Values, arrays: Arrays) -> None:
    (description,) = values
    request = InferenceRequest.model_validate(description)
    (tensor,) = request.inputs
    if tensor.data is not None or any(array.dtype != np.uint8 for array in arrays):
        raise ValueError("tensors that are not bytes")
    dimensions = {IMAGE: 4, ENCODED: 1}[tensor.name]
    if any(array.ndim != dimensions for array in arrays) or (tensor.name == IMAGE and len(arrays) != 1):
        raise ValueError("tensors of the wrong shape")
    images = len(arrays[0]) if tensor.name == IMAGE else len(arrays)
    if not 1 <= images <= max_images:
        raise ValueError("no images, or too many")
