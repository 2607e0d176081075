"""An HTTP/1.1 client on asyncio and httptools, which takes little of the cores that it shares with what it measures.

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

_PORTS = {"http": 80, "https": 443}


class NoAnswer(Exception):
    """Nothing that is HTTP came back; the message says what happened."""


@dataclass(frozen=True)
class HttpAnswer:
    """`retry_after`, in seconds, where the server says so."""

    status: int
    body: bytes
    retry_after: int | None = None


class HttpConnection(asyncio.Protocol):
    """One request at a time over one connection; it is `open` while another one can be sent."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._retry_after: int | None = None
        self._answer: asyncio.Future[HttpAnswer] = asyncio.get_running_loop().create_future()

    async def ask(self, request: bytes) -> HttpAnswer:
        """The answer to `request`, headers and body as they are sent. Raises NoAnswer."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._body, self._retry_after = [], None
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()  # what is still to come belongs to nobody
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
            self._fail("what came back is not HTTP")
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
            self._answer.exception()  # it may be that nobody waits


class LoadClient:
    """Sends requests to the server at `url`, each over a connection of its own, up to `connections`; the rest wait.

    An answer may take `seconds`. Raises BadParameter if `url` or `key` cannot be used.
    """

    def __init__(self, url: str, key: str | None = None, *, connections: int = 256, seconds: float = 120) -> None:
        self._at = _split(url)
        self.url = self._at.geturl()
        self._headers = f"Host: {self._at.netloc}\r\nUser-Agent: crossvit\r\nAccept: application/json\r\n"
        if key is not None:
            if not (key.isascii() and key.isprintable()):
                raise BadParameter("the API key has characters that cannot be sent in a header")
            self._headers += f"Authorization: Bearer {key}\r\n"
        self._tls = ssl.create_default_context() if self._at.scheme == "https" else None
        self._seconds = seconds
        self._room = asyncio.Semaphore(connections)
        self._idle: list[HttpConnection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for connection in self._idle:
            connection.close()

    def get(self, path: str) -> bytes:
        """The request for `path`, below the server's URL."""
        return self._head("GET", path).encode() + b"\r\n"

    def post(self, path: str, body: bytes) -> bytes:
        """The request that sends `body` to `path`."""
        kind = f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        return (self._head("POST", path) + kind).encode() + body

    async def ask(self, request: bytes) -> HttpAnswer:
        """The answer to what `get` or `post` gave. Raises NoAnswer."""
        async with self._room:
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
        port = self._at.port or _PORTS[self._at.scheme]
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(HttpConnection, self._at.hostname or "", port, ssl=self._tls)
        return connection

    def _head(self, method: str, path: str) -> str:
        return f"{method} {self._at.path}{path} HTTP/1.1\r\n{self._headers}"


def _split(url: str) -> SplitResult:
    try:
        at = urlsplit(url)
        usable = at.scheme in _PORTS and at.hostname and at.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or at.username or at.query or at.fragment or not url.isascii() or not url.isprintable():
        raise BadParameter("the URL is not like http://host:8000")
    return at._replace(path=quote(at.path.rstrip("/"), safe="/%"))


def _reason(err: OSError) -> str:
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {err.verify_message}"
    return "the connection is refused" if isinstance(err, ConnectionRefusedError) else err.strerror or str(err)
