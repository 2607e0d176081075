"""ModelStreamInfer: requests on a stream, and a response to each in their order."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from app.api.auth import AccessLevel
from app.errors import NotReady, Overloaded
from app.grpc_api.inference_messages import INFER_RESPONSE_MESSAGE, INFERENCE_SERVICE, STREAM_RESPONSE_MESSAGE
from app.grpc_api.inference_methods import InferenceMethods
from app.grpc_api.rpc_calls import CallRunner, RpcCall, RpcMethod
from app.grpc_api.status_codes import code_of, forget_frames
from bundle.bundle_errors import ExplainedError

STREAM_METHOD = RpcMethod(INFERENCE_SERVICE, "ModelStreamInfer", streams=True)
MAX_IN_FLIGHT = 16  # requests of a stream whose answers the client has not read; beyond that it is not read from
_LEAST_IDLE_SECONDS = 1.0


@dataclass(eq=False)
class _Stream:
    """An open stream.

    Attributes:
        reading: ends it when it expires; None once nothing more is read.
        in_flight: its requests that have no answer yet.
        idle_since: when it last got or answered a request.
        ended: why it ends, if the service ends it.
    """

    reading: asyncio.Timeout | None = field(default_factory=lambda: asyncio.timeout(None))
    in_flight: int = 0
    idle_since: float = field(default_factory=time.monotonic)
    ended: str = ""

    def end(self, reason: str) -> None:
        """Read no more; when all is answered that was read, the stream ends with `reason`."""
        if not self.ended and self.reading is not None:
            self.ended = reason
            self.stop_reading()

    def stop_reading(self) -> None:
        if self.reading is not None:
            self.reading.reschedule(0)


class InferenceStreams:
    """The open streams of the port, at most as many as messages may be in memory, since each may have one arriving.

    A further one takes the place of the one that has been idle longest.

    Args:
        methods: answer the requests.
        runner: records them.
    """

    def __init__(self, methods: InferenceMethods, runner: CallRunner) -> None:
        self._methods = methods
        self._runner = runner
        self._open: list[_Stream] = []

    def end_all(self) -> None:
        """Read no more from any stream; each ends when what it has sent is answered."""
        for stream in self._open:
            stream.end("the service, or this instance of it, is stopping: connect again")

    async def serve(self, call: RpcCall) -> None:
        """Answer the requests of a stream until the client ends it. Raises Overloaded, or NotReady if it is ended."""
        await call.authorize(AccessLevel.KEY)
        answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        room = asyncio.Semaphore(MAX_IN_FLIGHT)
        tasks: list[asyncio.Task[Any]] = []
        with self._opened() as stream:
            writing = asyncio.create_task(_write(call, answers, room, stream))
            writing.add_done_callback(lambda _: stream.stop_reading())  # if it fails, as when the client reads nothing
            try:
                await self._read(call, stream, room, answers, tasks)
                answers.put_nowait(None)
                await writing
            finally:
                for task in (writing, *tasks):
                    task.cancel()
                await asyncio.gather(writing, *tasks, return_exceptions=True)
        if stream.ended:
            raise NotReady(stream.ended, retry_after=1)

    async def _read(
        self,
        call: RpcCall,
        stream: _Stream,
        room: asyncio.Semaphore,
        answers: "asyncio.Queue[asyncio.Task[Any] | None]",
        tasks: list[asyncio.Task[Any]],
    ) -> None:
        """Start a task for each request, until there is none any more or the stream is ended."""
        reading = stream.reading
        assert reading is not None
        try:
            async with reading:
                while True:
                    await room.acquire()
                    raw = await call.context.read()
                    if raw is grpc.aio.EOF:
                        return
                    stream.in_flight += 1
                    task = asyncio.create_task(self._answer([raw], call))
                    del raw  # it is the task's alone
                    tasks[:] = [other for other in tasks if not other.done()] + [task]
                    answers.put_nowait(task)
        except TimeoutError:
            if not reading.expired():
                raise
        finally:
            stream.reading = None

    async def _answer(self, message: list[bytes], stream_call: RpcCall) -> Any:
        """The ModelStreamInferResponse to one request, which is logged and counted as a call of its own."""
        now = time.perf_counter()
        deadline = min(stream_call.ends, now + stream_call.service.settings.request_seconds)
        call = replace(stream_call, started=now, deadline=deadline, stages=[])
        code, response = grpc.StatusCode.CANCELLED, None
        try:
            with call.service.body_limits.hold(len(message[0])):
                await call.authorize(AccessLevel.KEY, rate_limited=True)
                response = STREAM_RESPONSE_MESSAGE(infer_response=await self._methods.infer(message, call))
            code = grpc.StatusCode.OK
        except ExplainedError as err:
            code = code_of(err)
            self._runner.count_refusal(err)
            response = _error_response(str(err), call)
            forget_frames(err)
        except Exception as err:
            code = grpc.StatusCode.INTERNAL
            response = _error_response(self._runner.log_defect(call, err), call)
        finally:
            self._runner.record(STREAM_METHOD, code, call)
        return response

    @contextmanager
    def _opened(self) -> Iterator[_Stream]:
        if sum(not stream.ended for stream in self._open) >= self._runner.most_messages:
            self._make_room()
        stream = _Stream()
        self._open.append(stream)
        try:
            yield stream
        finally:
            self._open.remove(stream)

    def _make_room(self) -> None:
        """End the stream that has been idle longest, or raise Overloaded."""
        idle = [stream for stream in self._open if not stream.in_flight and not stream.ended]
        oldest = min(idle, key=lambda stream: stream.idle_since, default=None)
        if oldest is None or time.monotonic() - oldest.idle_since < _LEAST_IDLE_SECONDS:
            raise Overloaded(f"{len(self._open)} streams are open, and no more may be", retry_after=1)
        oldest.end("the stream was idle, and is ended to make room for others")


async def _write(
    call: RpcCall, answers: "asyncio.Queue[asyncio.Task[Any] | None]", room: asyncio.Semaphore, stream: _Stream
) -> None:
    """Send the answers in the order of their requests; each makes room for a further request."""
    while (task := await answers.get()) is not None:
        await call.send(await task)
        stream.in_flight -= 1
        stream.idle_since = time.monotonic()
        room.release()


def _error_response(text: str, call: RpcCall) -> Any:
    """The response to a request that was refused or has failed, with its id, as Triton has it."""
    return STREAM_RESPONSE_MESSAGE(error_message=text, infer_response=INFER_RESPONSE_MESSAGE(id=call.message_id))
