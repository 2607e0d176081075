"""What every route has in common: the path prefix, origin checks, HEAD and OPTIONS, and error responses."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.origin_policy import SAFE_METHODS, OriginPolicy
from app.errors import BadParameter, NotReady

MAX_QUERY_PARAMETERS = 32  # each costs time to parse
_ALL_METHODS = "GET, HEAD, OPTIONS, POST, PUT"
_STOPPED = NotReady("the service has stopped before it could answer", retry_after=1)
_ROUTER_KEYS = ("route", "fastapi", "path_params", "endpoint")  # the router writes them into the scope


class EntryMiddleware:
    """ASGI middleware, inside of CORS, so that web pages can read its responses.

    It limits the number of a query's parameters. HEAD is answered as GET without content (RFC 9110, 9.3.2). OPTIONS
    (9.3.7) and each 405 (15.5.6) list the methods that the path allows.

    Args:
        app: the application inside.
        prefix: a path below it is routed without it.
        origin_policy: refuses requests by host and origin.
        open_paths: paths that any host name may ask.
        error_response: makes the response to an exception that nothing inside has handled.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        prefix: str,
        origin_policy: OriginPolicy,
        open_paths: Collection[str],
        error_response: Callable[[Request, Exception], Response],
    ) -> None:
        self._app = app
        self._prefix = prefix
        self._origin_policy = origin_policy
        self._open_paths = open_paths
        self._error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = strip_prefix(scope["path"], self._prefix)
        response = _ResponseSender(scope["method"], send)
        # A copy: the server reads the original method, to know that HEAD has no content.
        inner = dict(scope, method="GET" if scope["method"] == "HEAD" else scope["method"])
        try:
            self._check(scope)
            if scope["method"] == "OPTIONS" and scope["path"] == "*":
                await Response(status_code=204, headers={"Allow": _ALL_METHODS})(inner, receive, response.send)
            else:
                await self._app(inner, receive, response.send)
        except (Exception, asyncio.CancelledError) as err:
            if response.started:
                raise  # part of a response is out: the server must close the connection
            # The server cancels what it has not answered within `drain_seconds`.
            error = _STOPPED if isinstance(err, asyncio.CancelledError) else err
            await self._error_response(Request(scope), error)(inner, receive, response.send)
        finally:
            scope.update({name: inner[name] for name in _ROUTER_KEYS if name in inner})

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if scope["query_string"].count(b"&") >= MAX_QUERY_PARAMETERS:
            raise BadParameter(f"the query has more than {MAX_QUERY_PARAMETERS} parameters")
        if scope["path"] not in self._open_paths:
            self._origin_policy.check_host(headers)
        if scope["method"] not in SAFE_METHODS:
            self._origin_policy.check_page(headers)


def strip_prefix(path: str, prefix: str) -> str:
    """`path` without `prefix`, unchanged if it is not below it."""
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :] or "/"
    return path


class _ResponseSender:
    """Sends a route's response as the request's method requires it."""

    def __init__(self, method: str, send: Send) -> None:
        self._method = method
        self._send = send
        self._without_content = method == "HEAD"
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = self._start(message)
        elif message["type"] == "http.response.body" and self._without_content:
            message = {**message, "body": b""}
        await self._send(message)

    def _start(self, message: Message) -> Message:
        if message["status"] != 405:
            return message
        allowed = {name.strip() for name in MutableHeaders(scope=message).get("Allow", "GET").split(",")}
        allowed |= {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
        allow = ", ".join(sorted(allowed))
        if self._method == "OPTIONS":
            self._without_content = True
            start: dict[str, Any] = {"type": message["type"], "status": 204, "headers": [(b"allow", allow.encode())]}
            return start
        MutableHeaders(scope=message)["Allow"] = allow
        return message
