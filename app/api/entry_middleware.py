"""Before every route alike: a path prefix, who may ask from a browser, HEAD and OPTIONS, and errors."""

from collections.abc import Callable, Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.origin import SAFE, Origins
from app.errors import BadParameter

_MAX_PARAMETERS = 32  # of a query: to read each costs time
_EVERY = "GET, HEAD, OPTIONS, POST"
_FOUND = ("route", "fastapi", "path_params", "endpoint")  # what the router notes in the scope


class EntryMiddleware:
    """ASGI middleware, inside of CORS, so that pages can read what it answers.

    A path below `prefix` is that path without it. What `origins` forbids is refused; the paths in `open_paths` may be
    asked by any host. A query has a limited number of parameters. HEAD is GET without its content (RFC 9110, 9.3.2),
    OPTIONS says what a path allows (9.3.7), and so does each 405 (15.5.6). `answer` makes the response to an exception
    that nobody else has answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        prefix: str,
        origins: Origins,
        open_paths: Collection[str],
        answer: Callable[[Request, Exception], Response],
    ) -> None:
        self._app = app
        self._prefix = prefix
        self._origins = origins
        self._open_paths = open_paths
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = without_prefix(scope["path"], self._prefix)
        reply = _Reply(scope["method"], send)
        # A copy, since servers look up the method to know that HEAD has no content.
        inner = dict(scope, method="GET" if scope["method"] == "HEAD" else scope["method"])
        try:
            self._check(scope)
            if scope["method"] == "OPTIONS" and scope["path"] == "*":
                await Response(status_code=204, headers={"Allow": _EVERY})(inner, receive, reply.send)
            else:
                await self._app(inner, receive, reply.send)
        except Exception as err:
            if reply.started:
                raise  # half an answer is out: the connection has to end
            await self._answer(Request(scope), err)(inner, receive, reply.send)
        finally:
            scope.update({name: inner[name] for name in _FOUND if name in inner})

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if scope["query_string"].count(b"&") >= _MAX_PARAMETERS:
            raise BadParameter(f"the query has more than {_MAX_PARAMETERS} parameters")
        if scope["path"] not in self._open_paths:
            self._origins.check_host(headers)
        if scope["method"] not in SAFE:
            self._origins.check_page(headers)


def without_prefix(path: str, prefix: str) -> str:
    """`path` below `prefix`, or as it is where it is not below that."""
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :] or "/"
    return path


class _Reply:
    """Sends what a route answers, as the method wants it."""

    def __init__(self, method: str, send: Send) -> None:
        self._method = method
        self._send = send
        self._without_content = method == "HEAD"
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = self._head(message)
        elif message["type"] == "http.response.body" and self._without_content:
            message = {**message, "body": b""}
        await self._send(message)

    def _head(self, message: Message) -> Message:
        if message["status"] != 405:
            return message
        allowed = {name.strip() for name in MutableHeaders(scope=message).get("Allow", "GET").split(",")}
        allowed |= {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
        allow = ", ".join(sorted(allowed))
        if self._method == "OPTIONS":
            self._without_content = True
            head: dict[str, Any] = {"type": message["type"], "status": 204, "headers": [(b"allow", allow.encode())]}
            return head
        MutableHeaders(scope=message)["Allow"] = allow
        return message
