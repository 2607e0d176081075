"""A request and its response, as uvicorn runs the application for it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.early_refusal import EarlyRefusal


class RequestCycle(RequestResponseCycle):
    """A request and its response.

    Attributes:
        status: of the response that the application has begun.
        refusal: why the application is not asked, if it is not.
        started: when the head was complete, on the clock of time.perf_counter.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.status = 0
        self.refusal: EarlyRefusal | None = None
        self.started = time.perf_counter()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
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
