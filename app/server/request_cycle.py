"""A request and its response, as uvicorn runs the application for it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.dependencies import DISCONNECT_EXTENSION
from app.api.early_refusal import EarlyRefusal

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestCycle(RequestResponseCycle):
    """A request and its response. The pieces of the body are kept as they come, and joined at most once.

    Args:
        ends_connection: asked when the response begins: whether the connection ends with it.
        given: as uvicorn has it.

    Attributes:
        status: of the response that the application has begun.
        refusal: why the application is not asked, if it is not.
        started: when the head was complete, on the clock of time.perf_counter.
    """

    def __init__(self, *, ends_connection: Callable[[], bool], **given: Any) -> None:
        super().__init__(**given)
        self._ends_connection = ends_connection
        self.status = 0
        self.refusal: EarlyRefusal | None = None
        self.started = time.perf_counter()
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._on_disconnect: Callable[[], None] | None = None
        self.scope["extensions"] = {DISCONNECT_EXTENSION: self._watch_disconnect}  # type: ignore[dict-item]

    def add_body(self, piece: bytes) -> int:
        """Keep a piece until the application receives it; the number of bytes that it has not received."""
        self._pieces.append(piece)
        self._piece_bytes += len(piece)
        return self._piece_bytes

    def disconnect(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self.message_event.set()
        callback, self._on_disconnect = self._on_disconnect, None
        if callback is not None:
            callback()

    def _watch_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._on_disconnect = callback
        if self.disconnected:
            self.disconnect()

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(CONTINUE)
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._piece_bytes = [], 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            if self._ends_connection():
                self.keep_alive = False  # the response says so
        if self.waiting_for_100_continue and self.more_body:
            self.keep_alive = False  # the client may send its body or not (RFC 9110, 10.1.1)
        await super().send(message)

    def send_whole(self, response: bytes) -> None:
        """Send the response, head and body, in the application's place."""
        self.response_started = self.response_complete = True
        self.transport.write(response)
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class ResponseTransport:
    """The transport as a request cycle sees it; `close` is called in place of the transport's."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close
