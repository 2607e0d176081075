"""Around every request: its id, its line in the log, its metrics, its trace, and the headers of every response."""

import logging
import re
import time
import uuid
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Tracing

HEADER = "X-Request-ID"
PROBES = {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}

_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-site",
    "Cache-Control": "no-store",
}
# Swagger's page runs a script of its own and calls the service.
_DOCS = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

log = structlog.get_logger("app.request")


class ObservabilityMiddleware:
    """ASGI middleware; outermost, so that it sees what the others answer.

    Sets `request.state.request_id` (the client's own X-Request-ID, if it is a sane one) and `started`; reads `caller`
    and `stages` if a route has set them. While `stopping`, connections are not kept.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        tracing: Tracing | None,
        stopping: Callable[[], bool],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(HEADER, "")
        request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "started": time.perf_counter(), "stages": [], "caller": ""}
        status = 499  # nothing was sent

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                self._add_headers(scope, MutableHeaders(scope=message), request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._note(scope, headers, status)

    def _add_headers(self, scope: Scope, headers: MutableHeaders, request_id: str) -> None:
        headers[HEADER] = request_id
        for name, value in _SECURITY.items():
            headers.setdefault(name, value)
        if scope["path"] in ("/docs", "/docs/oauth2-redirect"):
            headers["Content-Security-Policy"] = _DOCS
        if self._stopping():
            headers["Connection"] = "close"

    def _note(self, scope: Scope, headers: Headers, status: int) -> None:
        state = scope["state"]
        seconds = time.perf_counter() - state["started"]
        method, route = _labels(scope)
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        log.log(
            logging.DEBUG if route in PROBES else logging.INFO,
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            request_id=state["request_id"],
            client=(scope.get("client") or ("",))[0],
            caller=state["caller"],
            **_model(scope, status),
            **{name: round(1000 * span.seconds, 1) for name, span in state["stages"]},
        )
        if self._tracing is not None and route not in PROBES:
            self._tracing.record(scope["method"], route, status, headers, state)


def _labels(scope: Scope) -> tuple[str, str]:
    """The method and the path of the route that has the request, such as /v2/models/{name}, or else "other".

    What a client makes up must not make metrics, nor be logged: it may be a key that went astray.
    """
    # Where FastAPI keeps routers whole, an included route has but the end of its path, and this the whole one.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    if route is None:
        return "other", "other"
    known = {"OPTIONS", *route.methods} | ({"HEAD"} if "GET" in route.methods else set())
    return scope["method"] if scope["method"] in known else "other", str(route.path)


def _model(scope: Scope, status: int) -> dict[str, str]:
    """The model in the path, if there is such a model."""
    name = scope.get("path_params", {}).get("name")
    return {"model": name} if name and status < 400 else {}
