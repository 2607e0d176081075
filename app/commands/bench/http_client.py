"""The HTTP client of `crossvit bench` and `crossvit evaluate --url`, on aiohttp.

The server may share the cores: aiohttp takes a seventh of httpx's processor time or less (docs/operations.md).
"""

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, quote, urlsplit

import aiohttp
from yarl import URL

from app.errors import BadParameter

_SCHEMES = ("http", "https")
_LOST = "the connection was lost"


class NoAnswer(Exception):
    """The server sent no HTTP answer; the message says what happened."""


@dataclass(frozen=True)
class HttpRequest:
    """A request that can be sent any number of times."""

    method: str
    url: URL
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpAnswer:
    """An answer; `retry_after` is in seconds, None if the server does not send it."""

    status: int
    body: bytes
    retry_after: int | None = None


class LoadClient:
    """Sends requests to one server over several connections. Raises BadParameter if `url` or `key` cannot be used.

    Args:
        url: the server's, such as http://host:8000.
        key: its API key, if it needs one.
        connections: the most at once; further requests wait for a free one.
        seconds: the longest time for an answer.
    """

    def __init__(self, url: str, key: str | None = None, *, connections: int = 256, seconds: float = 120) -> None:
        self.url = _split(url).geturl()
        self._headers = {"User-Agent": "crossvit", "Accept": "application/json"}
        if key is not None:
            if not (key.isascii() and key.isprintable()):
                raise BadParameter("the API key has characters that cannot be sent in a header")
            self._headers["Authorization"] = f"Bearer {key}"
        self._seconds = seconds
        self._free_connections = asyncio.Semaphore(connections)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # _free_connections limits: waiting is not part of the time limit
            headers=self._headers,
            skip_auto_headers=["Accept-Encoding"],
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._session.close()

    def get(self, path: str) -> HttpRequest:
        """A GET request for `path`, below the server's URL."""
        return HttpRequest("GET", URL(self.url + path, encoded=True))

    def post(self, path: str, body: bytes, content_type: str = "application/octet-stream") -> HttpRequest:
        """A POST request that sends `body` to `path`."""
        return HttpRequest("POST", URL(self.url + path, encoded=True), body, {"Content-Type": content_type})

    async def ask(self, request: HttpRequest) -> HttpAnswer:
        """The answer to a request that `get` or `post` made. Raises NoAnswer."""
        async with self._free_connections:
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._ask(request)
            except TimeoutError as err:
                raise NoAnswer(f"no answer within {self._seconds:g} s") from err
            except (aiohttp.ClientError, OSError) as err:
                raise NoAnswer(_reason(err)) from err

    async def _ask(self, request: HttpRequest) -> HttpAnswer:
        async with self._session.request(
            request.method, request.url, data=request.body, headers=request.headers, allow_redirects=False
        ) as response:
            retry_after = response.headers.get("Retry-After", "")
            return HttpAnswer(
                response.status, await response.read(), int(retry_after) if retry_after.isdecimal() else None
            )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
    except ValueError:  # the port is not a number
        usable = False
    if not usable or parts.username or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise BadParameter("the URL must be like http://host:8000, without a user, query or fragment")
    return parts._replace(path=quote(parts.path.rstrip("/"), safe="/%"))


def _reason(err: Exception) -> str:
    if isinstance(err, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {getattr(err.certificate_error, 'verify_message', err)}"
    if isinstance(err, aiohttp.ClientConnectorError):
        refused = isinstance(err.os_error, ConnectionRefusedError)
        return "the connection is refused" if refused else err.os_error.strerror or str(err.os_error)
    if isinstance(err, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    if isinstance(err, aiohttp.ServerConnectionError | aiohttp.ClientOSError | aiohttp.ClientPayloadError):
        return _LOST
    return str(err) or _LOST
