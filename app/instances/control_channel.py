"""Questions and answers between the parent and an instance: a line of JSON each, both ways over one socket."""

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from app import errors
from bundle.bundle_errors import BadBundle, ExplainedError

log = logging.getLogger(__name__)

Method = Callable[..., Awaitable[Any]]

_MAX_LINE_BYTES = 64 << 20
_ERRORS: dict[str, type[ExplainedError]] = {
    kind.__name__: kind
    for kind in (BadBundle, *vars(errors).values())
    if isinstance(kind, type) and issubclass(kind, ExplainedError)
}


class ChannelClosed(Exception):
    """The other side has ended."""


class ControlChannel:
    """One side of a control socket; `run` it, and `ask` meanwhile.

    Args:
        methods: what the other side may ask, by name; values and results are JSON. An ExplainedError that one raises
            is raised at the other side; another exception is logged there as ChannelClosed's cause is here.
    """

    def __init__(self, methods: dict[str, Method]) -> None:
        self._methods = methods
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._open = asyncio.Event()
        self._closed = False

    async def run(self, connection: socket.socket) -> None:
        """Answer questions until the other side closes `connection` or ends."""
        reader, self._writer = await asyncio.open_unix_connection(sock=connection, limit=_MAX_LINE_BYTES)
        self._open.set()
        try:
            while line := await reader.readline():
                self._receive(json.loads(line))
        except ConnectionError:
            pass  # it has ended
        finally:
            self.close()

    async def ask(self, method: str, *values: Any, seconds: float | None = None) -> Any:
        """What `method` of the other side gives for `values`.

        Raises its ExplainedError, ChannelClosed, or TimeoutError after `seconds`.
        """
        await self._open.wait()
        if self._closed:
            raise ChannelClosed
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"number": number, "method": method, "values": values})
        try:
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            del self._asked[number]

    def close(self) -> None:
        """End the connection; what was asked raises ChannelClosed."""
        self._closed = True
        self._open.set()
        if self._writer is not None:
            self._writer.close()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ChannelClosed())

    def _receive(self, message: dict[str, Any]) -> None:
        if "method" in message:
            task = asyncio.create_task(self._answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        answer = self._asked.get(message["number"])
        if answer is None or answer.done():
            return  # it came too late
        if "error" in message:
            kind = _ERRORS.get(message["error"], errors.NotReady)
            answer.set_exception(kind(message["message"], message["retry_after"]))
        else:
            answer.set_result(message["result"])

    async def _answer(self, question: dict[str, Any]) -> None:
        try:
            answer = {"result": await self._methods[question["method"]](*question["values"])}
        except ExplainedError as err:
            answer = {"error": type(err).__name__, "message": str(err), "retry_after": err.retry_after}
        except ChannelClosed:
            return
        except Exception:
            log.exception("%s failed", question["method"])
            answer = {
                "error": "NotReady",
                "message": f"{question['method']} failed; the log says why",
                "retry_after": 1,
            }
        self._send({"number": question["number"]} | answer)

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._closed:
            self._writer.write(json.dumps(message).encode() + b"\n")
