"""An HTTP/1.1 client on asyncio and httptools; it takes little of the cores that it shares with the measured server.

Source: RFC 9112.
"""

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast
from urllib.parse import SplitResult, quote, urlsplit

import httptools

from app.errors import BadParameter

_DEFAULT_PORTS = {"http": 80, "https": 443}


class NoAnswer(Exception):
    """The server sent no HTTP answer; the message says what happened."""


@dataclass(frozen=True)
class HttpAnswer:
    """An answer; `retry_after` is in seconds, None if the server does not send it."""

    status: int
    body: bytes
    retry_after: int | None = None


class HttpConnection(asyncio.Protocol):
    """Sends one request at a time over one connection, which is `open` while it can take another one."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._retry_after: int | None = None
        self._answer: asyncio.Future[HttpAnswer] = asyncio.get_running_loop().create_future()

    async def ask(self, request: bytes) -> HttpAnswer:
        """The answer to `request`, the bytes of headers and body. Raises NoAnswer."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._body, self._retry_after = [], None
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()  # nobody waits for the rest of the answer
            raise

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.open = cast(asyncio.Transport, transport), True

    def connection_lost(self, _: Exception | None) -> None:
        self.open = False
        self._fail("the connection was lost")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("the answer is not HTTP")
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after = int(value)

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        assert self._transport is not None
        if not self._answer.done():
            answer = HttpAnswer(self._parser.get_status_code(), b"".join(self._body), self._retry_after)
            self._answer.set_result(answer)
        # A server that answers before it has read everything may not read the rest either.
        if not self._parser.should_keep_alive() or self._transport.get_write_buffer_size():
            self.close()

    def _fail(self, why: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(NoAnswer(why))
            self._answer.exception()  # so that asyncio does not complain if nobody waits


class LoadClient:
    """Sends requests to one server over several connections. Raises BadParameter if `url` or `key` cannot be used.

    Args:
        url: the server's, such as http://host:8000.
        key: its API key, if it needs one.
        connections: the most at once; further requests wait for a free one.
        seconds: the longest time for an answer.
    """

    def __init__(self, url: str, key: str | None = None, *, connections: int = 256, seconds: float = 120) -> None:
        self._base = _split(url)
        self.url = self._base.geturl()
        self._headers = f"Host: {self._base.netloc}\r\nUser-Agent: crossvit\r\nAccept: application/json\r\n"
        if key is not None:
            if not (key.isascii() and key.isprintable()):
                raise BadParameter("the API key has characters that cannot be sent in a header")
            self._headers += f"Authorization: Bearer {key}\r\n"
        self._tls = ssl.create_default_context() if self._base.scheme == "https" else None
        self._seconds = seconds
        self._free_connections = asyncio.Semaphore(connections)
        self._idle: list[HttpConnection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for connection in self._idle:
            connection.close()

    def get(self, path: str) -> bytes:
        """A GET request for `path`, below the server's URL."""
        return self._head("GET", path).encode() + b"\r\n"

    def post(self, path: str, body: bytes, content_type: str = "application/octet-stream") -> bytes:
        """A POST request that sends `body` to `path`."""
        content = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        return (self._head("POST", path) + content).encode() + body

    async def ask(self, request: bytes) -> HttpAnswer:
        """The answer to a request that `get` or `post` made. Raises NoAnswer."""
        async with self._free_connections:
            try:
                async with asyncio.timeout(self._seconds):
                    connection = await self._connection()
                    answer = await connection.ask(request)
            except TimeoutError as err:
                raise NoAnswer(f"no answer within {self._seconds:g} s") from err
            except OSError as err:
                raise NoAnswer(_reason(err)) from err
            if connection.open:
                self._idle.append(connection)
            return answer

    async def _connection(self) -> HttpConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        port = self._base.port or _DEFAULT_PORTS[self._base.scheme]
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(HttpConnection, self._base.hostname or "", port, ssl=self._tls)
        return connection

    def _head(self, method: str, path: str) -> str:
        return f"{method} {self._base.path}{path} HTTP/1.1\r\n{self._headers}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:  # the port is not a number
        usable = False
    if not usable or parts.username or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise BadParameter("the URL must be like http://host:8000, without a user, query or fragment")
    return parts._replace(path=quote(parts.path.rstrip("/"), safe="/%"))


def _reason(err: OSError) -> str:
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {err.verify_message}"
    return "the connection is refused" if isinstance(err, ConnectionRefusedError) else err.strerror or str(err)
