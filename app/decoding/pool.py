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
from itertools import accumulate

from pydantic import ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter

from app.decoding.decoder_memory import DecoderMemory, PixelBlock, claimed
from app.decoding.dialect_requests import Dialect
from app.decoding.embedding_requests import EmbeddingRequest
from app.decoding.fair_queue import FairQueue, Turn
from app.decoding.oip_tensors import ENCODED, IMAGE, InferenceRequest
from app.decoding.overlay_bounds import MAX_OVERLAY_BYTES, Grid
from app.errors import BadImage, BadInference, NotAnImage, NotReady, TooLarge, TooLate
from app.processes.async_worker import AsyncWorker
from app.processes.channel import Arrays, Limits, Reply, Values
from app.processes.shared_memory import SharedBlock
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from app.timing import Interval
from bundle.bundle_errors import ExplainedError
from model.crop_windows import Size
from model.spec import Preprocessing

log = logging.getLogger(__name__)

_START_SECONDS = 60
_MAX_HEAD_BYTES = 1 << 20  # of an answer, apart from its arrays
_FIRST_PAUSE = 0.5  # seconds between attempts to start a decoder
_LONGEST_PAUSE = 30.0
_SHAPES = TypeAdapter(list[list[NonNegativeInt]], config=ConfigDict(strict=True))  # of tensors
_SIZES = TypeAdapter(list[NonNegativeInt], config=ConfigDict(strict=True))  # of files
_SIZE = TypeAdapter(tuple[PositiveInt, PositiveInt], config=ConfigDict(strict=True))
_CANNOT_START = "no decoder could be started; the log says why"


@dataclass(frozen=True)
class Decoded:
    """What a decoder gave: JSON values, what it wrote into its memory, and when it was at work."""

    values: Values
    memory: DecoderMemory
    block: SharedBlock
    interval: Interval


@dataclass(eq=False)
class _Job:
    """A call of a method of app.decoding.decoder_worker.Decoder, and the future of its answer."""

    method: str
    values: Values
    body: bytes
    result_bytes: int  # that it may write into its memory
    reply: Reply
    deadline: float
    answer: asyncio.Future[Decoded] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def over(self) -> bool:
        """Whether its request has gone, or is too late."""
        return self.answer.done() or time.perf_counter() >= self.deadline

    def fail(self, err: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(err)


class DecoderPool:
    """Decoder processes that share their time fairly between callers; the jobs of one caller wait in order.

    They start with the context, and leaving it ends them. One that fails, or ends while it is idle, is replaced at
    once. Each has a memory of its own, which engines map to read the pixels: `files` are these memories.

    Args:
        count: number of processes.
        max_pixels: as for app.decoding.image_decoding.decode.
        scaled_jpeg: as for app.decoding.image_decoding.decode.
        seconds: the longest time for one job; then its process is killed.
        memory_bytes: the memory that a process may take for a job.
        shared_bytes: the size of each memory in which bodies and pixels cross; what is not used takes none.
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
        shared_bytes: int = 256 << 20,
        on_restart: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._decoder_values = [max_pixels, scaled_jpeg]
        self._max_pixels = max_pixels
        self._seconds = seconds
        self._limits = Limits(memory_bytes=memory_bytes, sealed=True)
        self._on_restart = on_restart
        self._sleep = sleep
        self._queue = FairQueue[_Job]()
        self._idle: deque[asyncio.Future[Turn[_Job] | None]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._starting = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._workers: set[Worker] = set()
        self._memories = [DecoderMemory(number, shared_bytes) for number in range(count)]
        self._serving = 0
        self._retry_after: int | None = None  # seconds, while no worker can be started and none is left
        self._changed = asyncio.Event()  # set when _serving or _retry_after changes
        self._closed = False
        self.count = count

    async def __aenter__(self) -> "DecoderPool":
        self._tasks = [asyncio.create_task(self._keep_one(memory)) for memory in self._memories]
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
        await asyncio.to_thread(self._starting.shutdown, cancel_futures=True)
        self._refuse_waiting(NotReady("the service is stopping"))
        for memory in self._memories:
            memory.close()

    @property
    def files(self) -> list[int]:
        """The open files of the memories that engines map, by the numbers in PixelLocation."""
        return [memory.file for memory in self._memories]

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
    ) -> tuple[PixelBlock, Interval]:
        """The pixels that the network sees, (1, crop, crop, 3), and the time of decoding. Raises as decode does.

        Raises TooLate if no worker begins before `deadline`, on the clock of time.perf_counter; BadImage if the worker
        dies or hangs; NotReady if there is no worker. The time of decoding is charged to `caller`.
        """
        shape = (1, steps.crop, steps.crop, 3)
        decoded = await self._run(
            caller, _Job("image", [steps.resize, steps.crop], body, math.prod(shape), _IMAGE_REPLY, deadline)
        )
        return PixelBlock(decoded.memory, decoded.block, shape), decoded.interval

    async def decode_and_measure(
        self, body: bytes, steps: Preprocessing, deadline: float = math.inf, *, caller: str = ""
    ) -> tuple[PixelBlock, Size, Interval]:
        """As `decode`, always on the CPU, with the width and height of the upright picture."""
        shape = (1, steps.crop, steps.crop, 3)
        reply = Reply(_MAX_HEAD_BYTES, 0, _IMAGE_ERRORS, partial(_check_size, self._max_pixels))
        job = _Job("measured_image", [steps.resize, steps.crop], body, math.prod(shape), reply, deadline)
        decoded = await self._run(caller, job)
        width, height = decoded.values
        return PixelBlock(decoded.memory, decoded.block, shape), (width, height), decoded.interval

    async def overlay(
        self,
        body: bytes,
        steps: Preprocessing,
        grids: Sequence[Grid],
        opacity: float,
        deadline: float = math.inf,
        *,
        caller: str = "",
    ) -> tuple[bytes, Interval]:
        """The PNG of app.decoding.overlay.draw_overlay, and the time that it took. Raises as `decode`."""
        reply = Reply(_MAX_HEAD_BYTES, 0, _IMAGE_ERRORS, _check_overlay)
        values = [steps.resize, steps.crop, grids, opacity]
        decoded = await self._run(caller, _Job("overlay", values, body, MAX_OVERLAY_BYTES, reply, deadline))
        png = decoded.memory.array(decoded.block, decoded.values).tobytes()
        decoded.block.release()
        return png, decoded.interval

    async def inference(
        self,
        body: bytes,
        *,
        json_bytes: int | None,
        max_images: int,
        deadline: float = math.inf,
        caller: str = "",
    ) -> tuple[InferenceRequest, PixelBlock | list[bytes]]:
        """The request without its tensor, and what that holds: pixels, or encoded images.

        Raises as app.decoding.oip_tensors.read_inputs and as `decode` do.
        """
        return await self._inference("inference", [json_bytes], body, max_images, deadline, caller)

    async def dialect(
        self, body: bytes, dialect: Dialect, *, max_images: int, deadline: float = math.inf, caller: str = ""
    ) -> tuple[InferenceRequest, PixelBlock | list[bytes]]:
        """What `inference` gives, of a request in `dialect`. Raises as read_dialect and as `decode` do."""
        return await self._inference("dialect", [dialect], body, max_images, deadline, caller)

    async def embedding_request(
        self, body: bytes, *, max_images: int, deadline: float = math.inf, caller: str = ""
    ) -> tuple[EmbeddingRequest, list[bytes]]:
        """The request without its input, and the encoded images in that.

        Raises as app.decoding.embedding_requests.read_embedding_request and as `decode` do.
        """
        most_bytes = len(body)  # base64 is longer than what it encodes
        check = partial(_check_embedding_request, max_images, most_bytes)
        reply = Reply(_MAX_HEAD_BYTES, 0, (BadInference, TooLarge), check)
        decoded = await self._run(caller, _Job("embedding_request", [max_images], body, most_bytes, reply, deadline))
        description, sizes = decoded.values
        return EmbeddingRequest.model_validate(description), _taken(decoded, sizes)

    async def _inference(
        self, method: str, values: Values, body: bytes, max_images: int, deadline: float, caller: str
    ) -> tuple[InferenceRequest, PixelBlock | list[bytes]]:
        most_bytes = len(body)  # a tensor is never larger than the body that it comes in
        reply = Reply(_MAX_HEAD_BYTES, 0, (BadInference, TooLarge), partial(_check_inference, max_images, most_bytes))
        decoded = await self._run(caller, _Job(method, [*values, max_images], body, most_bytes, reply, deadline))
        description, shapes = decoded.values
        request = InferenceRequest.model_validate(description)
        if request.inputs[0].name == IMAGE:
            return request, PixelBlock(decoded.memory, decoded.block, shapes[0])
        return request, _taken(decoded, [size for (size,) in shapes])

    async def _run(self, caller: str, job: _Job) -> Decoded:
        """Queue `job` and await its answer."""
        self._check()
        self._queue.put(caller, job)
        self._hand_out()
        try:
            return await claimed(job.answer, lambda decoded: decoded.block.release())
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

    async def _keep_one(self, memory: DecoderMemory) -> None:
        """Keep one worker running. One that decoded something is replaced at once, others after growing pauses."""
        pause = 0.0
        while True:
            try:
                started = await asyncio.get_running_loop().run_in_executor(self._starting, self._start, memory)
                if await self._serve(started, memory):
                    pause = 0.0
            except Exception as err:  # no process, thread or memory: the next attempt may succeed
                pause = max(pause, _FIRST_PAUSE)
                self._cannot_start(err, pause)
            await self._sleep(pause)
            pause = min(max(_FIRST_PAUSE, 2 * pause), _LONGEST_PAUSE)

    def _start(self, memory: DecoderMemory) -> Worker:
        return Worker(
            "decoder",
            "app.decoding.decoder_worker:Decoder",
            self._decoder_values,
            seconds=_START_SECONDS,
            limits=self._limits,
            files=[memory.file],
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

    async def _serve(self, started: Worker, memory: DecoderMemory) -> bool:
        """Give jobs to the worker until it ends; True if it had any."""
        next_turn = _NextTurn(self._idle)
        worker = AsyncWorker(started, on_end=next_turn.end)
        self._serving += 1
        self._retry_after = None
        self._changed.set()
        served = False
        reason: str | None = None
        try:
            while reason is None:
                turn = await self._turn(next_turn)
                block = None if turn is None else await self._block(turn, memory)
                if next_turn.ended:
                    if turn is not None and block is not None:  # another worker decodes it
                        block.release()
                        self._queue.give_back(turn)
                    reason = await self._ended_between_images(worker)
                elif turn is not None and block is not None:
                    served = True
                    reason = await self._decode_next(turn, block, worker, memory)
            await worker.kill()
        finally:
            worker.close()
            started.kill()
            self._serving -= 1
            self._workers.discard(started)
        self._hand_out()
        return served

    async def _turn(self, next_turn: "_NextTurn") -> Turn[_Job] | None:
        """The next job for a worker, or None once the worker has ended."""
        if next_turn.ended:
            return None
        turn = self._queue.take()
        if turn is not None:
            return turn
        return await next_turn.wait()

    async def _ended_between_images(self, worker: AsyncWorker) -> str:
        end = await asyncio.to_thread(worker.worker.describe_end)
        log.warning("a decoder was lost between images: %s", end)
        self._on_restart("ended")
        return "ended"

    async def _block(self, turn: Turn[_Job], memory: DecoderMemory) -> SharedBlock | None:
        """Room for the body and the result of a job, once there is some; None if the job is not needed or too late.

        One block for both: two would wait for each other's room in a memory that is nearly full.
        """
        job = turn.item
        try:
            block = None if job.over else await memory.take(job.result_bytes + len(job.body))
        except TooLarge as err:
            block = None
            job.fail(err)
        except asyncio.CancelledError:
            job.fail(NotReady("the service is stopping"))
            raise
        if block is not None and not job.over:
            return block
        if block is not None:
            block.release()
        self._queue.drop(turn)
        job.fail(TooLate("the request's deadline has passed before its image was decoded"))
        return None

    async def _decode_next(
        self, turn: Turn[_Job], block: SharedBlock, worker: AsyncWorker, memory: DecoderMemory
    ) -> str | None:
        """Answer the job of `turn`; the reason if the worker was lost by it."""
        job, started = turn.item, time.perf_counter()
        try:
            decoded = await self._call(job, block, worker, memory)
            if job.answer.done():
                decoded.block.release()
            else:
                job.answer.set_result(decoded)
        except WorkerHung as err:
            log.warning("a decoder was lost: %s", err)
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

    async def _call(self, job: _Job, block: SharedBlock, worker: AsyncWorker, memory: DecoderMemory) -> Decoded:
        try:
            body = block.offset + job.result_bytes
            memory.write(body, job.body)
            started = time.perf_counter()
            values = [*job.values, body, len(job.body), block.offset]
            returned, _ = await worker.call(job.method, values, seconds=self._seconds, reply=job.reply)
        except BaseException:
            block.release()
            raise
        block.shorten(job.result_bytes)
        return Decoded(returned, memory, block, Interval(started, time.perf_counter()))

    def _lost(self, job: _Job, reason: str, message: str) -> str:
        if not self._closed:
            self._on_restart(reason)
        job.fail(BadImage(message))
        return reason


class _NextTurn:
    """What an idle worker waits for among those in `idle`: its next turn, or None when it ends meanwhile."""

    def __init__(self, idle: deque[asyncio.Future[Turn[_Job] | None]]) -> None:
        self._idle = idle
        self._future: asyncio.Future[Turn[_Job] | None] | None = None
        self.ended = False

    async def wait(self) -> Turn[_Job] | None:
        self._future = asyncio.get_running_loop().create_future()
        self._idle.append(self._future)
        try:
            return await self._future
        finally:
            self._leave()

    def end(self) -> None:
        """The worker has ended: it is given no turn any more."""
        self.ended = True
        self._leave()
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _leave(self) -> None:
        if self._future is not None and self._future in self._idle:
            self._idle.remove(self._future)


def _taken(decoded: Decoded, sizes: list[int]) -> list[bytes]:
    """The files of these sizes that a decoder has written one after the other; their block is released."""
    whole = decoded.memory.array(decoded.block, [sum(sizes)]).tobytes()
    decoded.block.release()
    ends = list(accumulate(sizes))
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _check_image(values: Values, _: Arrays) -> None:
    if values:
        raise ValueError("an image has no values")


_IMAGE_ERRORS = (NotAnImage, TooLarge, BadImage)
_IMAGE_REPLY = Reply(_MAX_HEAD_BYTES, 0, _IMAGE_ERRORS, _check_image)


def _check_size(max_pixels: int, values: Values, _: Arrays) -> None:
    if math.prod(_SIZE.validate_python(tuple(values))) > max_pixels:
        raise ValueError("more pixels than an image may have")


def _check_overlay(values: Values, _: Arrays) -> None:
    (size,) = values
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_OVERLAY_BYTES:
        raise ValueError("no size of a PNG")


def _check_inference(max_images: int, most_bytes: int, values: Values, _: Arrays) -> None:
    description, shapes = values
    (tensor,) = InferenceRequest.model_validate(description).inputs
    if tensor.data is not None:
        raise ValueError("a tensor in the description")
    dimensions = {IMAGE: 4, ENCODED: 1}[tensor.name]
    shapes = _SHAPES.validate_python(shapes)
    if any(len(shape) != dimensions for shape in shapes) or (tensor.name == IMAGE and len(shapes) != 1):
        raise ValueError("tensors of the wrong shape")
    if sum(map(math.prod, shapes)) > most_bytes:
        raise ValueError("more than there is room for")
    images = shapes[0][0] if tensor.name == IMAGE else len(shapes)
    if not 1 <= images <= max_images:
        raise ValueError("no images, or too many")


def _check_embedding_request(max_images: int, most_bytes: int, values: Values, _: Arrays) -> None:
    description, sizes = values
    if EmbeddingRequest.model_validate(description).input is not None:
        raise ValueError("an input in the description")
    if not 1 <= len(_SIZES.validate_python(sizes)) <= max_images:
        raise ValueError("no images, or too many")
    if sum(sizes) > most_bytes:
        raise ValueError("more than there is room for")
