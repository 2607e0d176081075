"""Calls to a worker that are awaited on the event loop, without a thread."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.processes.channel import INVALID_ANSWER, Answer, Arrays, Reading, Reply, Values, encode_message, read_answer
from app.processes.worker import SENT_INVALID_ANSWER, TRUSTED_REPLY, Worker, WorkerDied, WorkerHung


@dataclass(eq=False)
class _Call:
    reading: Reading[Answer]
    answer: asyncio.Future[Answer]


class AsyncWorker:
    """Takes over a started worker: from now on its calls are made here, in the thread of the running event loop.

    Several calls may be on their way; the worker answers them in order. The answer of a call that was cancelled is read
    and dropped. `close` it before the worker is killed by other means.

    Args:
        worker: has no call on its way.
        on_end: is called once if the worker ends, or sends data unasked, while it has no call.
    """

    def __init__(self, worker: Worker, on_end: Callable[[], None] = lambda: None) -> None:
        self.worker = worker
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._calls: deque[_Call] = deque()
        self._unsent = bytearray()  # of requests, while the socket takes no more
        self._buffer = memoryview(b"")  # the part of the answer that is being received
        self._socket = worker.connection
        self._socket.setblocking(False)
        self._open = True
        self._loop.add_reader(self._socket, self._receive)

    @property
    def closed(self) -> bool:
        """Whether no more calls can be made: it was closed, or the worker ended."""
        return not self._open

    async def call(
        self, method: str, values: Values, *, seconds: float, reply: Reply = TRUSTED_REPLY
    ) -> tuple[Values, Arrays]:
        """As Worker.call, without arrays in the request; the worker has `seconds` from now."""
        call = _Call(read_answer(reply), self._loop.create_future())
        timer = self._loop.call_later(seconds, self._fail, TimeoutError())
        try:
            self._send(call, method, values)
            answer = await call.answer
        except TimeoutError as err:
            self.close()
            await asyncio.to_thread(self.worker.kill_hung)
            raise WorkerHung(f"no answer within {seconds:g} s") from err
        except (OSError, EOFError) as err:
            self.close()
            raise WorkerDied(await asyncio.to_thread(self.worker.describe_end)) from err
        except INVALID_ANSWER as err:
            await self.kill()
            raise WorkerDied(SENT_INVALID_ANSWER) from err
        finally:
            timer.cancel()
        return self.worker.result(answer)

    def close(self) -> None:
        """Make no more calls, and fail those that are on their way; again is a no-op."""
        self._fail(EOFError())

    async def kill(self) -> None:
        """Close, and end the process."""
        self.close()
        await asyncio.to_thread(self.worker.kill)

    def _send(self, call: _Call, method: str, values: Values) -> None:
        if not self._open:
            raise EOFError
        self._calls.append(call)
        if len(self._calls) == 1:
            self._begin(call)
        (message,) = encode_message({"method": method, "values": values}, [])
        if not self._unsent:
            message = message[self._sent(message) :]
        if message:  # rare: the worker reads each request at once, unless it is stopped
            self._unsent += message
            self._loop.add_writer(self._socket, self._send_more)

    def _send_more(self) -> None:
        del self._unsent[: self._sent(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _sent(self, data: memoryview | bytearray) -> int:
        """How many bytes of `data` the socket takes now; all if the worker has ended, which fails its calls."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as err:
            self._fail(err)
            return len(data)

    def _begin(self, call: _Call) -> None:
        self._buffer = next(call.reading)

    def _receive(self) -> None:
        """Read what has come of the answers."""
        if not self._calls:
            self.close()
            self._on_end()
        try:
            while self._calls:
                self._advance(self._socket.recv_into(self._buffer))
        except BlockingIOError:
            return
        except (OSError, EOFError, *INVALID_ANSWER) as err:
            self._fail(err)

    def _advance(self, received: int) -> None:
        if not received:
            raise EOFError
        self._buffer = self._buffer[received:]
        call = self._calls[0]
        try:
            while not self._buffer:
                self._buffer = next(call.reading)
        except StopIteration as end:
            self._calls.popleft()
            if not call.answer.done():
                call.answer.set_result(end.value)
            if self._calls:
                self._begin(self._calls[0])

    def _fail(self, err: Exception) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        while self._calls:
            call = self._calls.popleft()
            if not call.answer.done():
                call.answer.set_exception(err)
