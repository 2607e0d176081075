"""What every request gets: an id, a line in the log, metrics, a trace, and security headers in its response."""

import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.answer_log import REQUEST_ID
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Tracing

REQUEST_ID_HEADER = "X-Request-ID"
PROBE_PATHS = {"/livez", "/readyz", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready"}

_REQUEST_ID_FIELD = REQUEST_ID_HEADER.lower().encode()
_REVISION_FIELD = b"x-model-revision"  # of app.serving.canary, which a route has written into the state
_POLICY_FIELD = b"content-security-policy"
_ACCEPTED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
SECURITY_HEADERS = {  # of every response that has none of that name
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-site",
    b"cache-control": b"no-store",
}
# Swagger's page has an inline script and calls the service.
_DOCS_CONTENT_SECURITY_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS_PATHS = ("/docs", "/docs/oauth2-redirect")

log = structlog.get_logger("app.request")


class ObservabilityMiddleware:
    """ASGI middleware, the outermost, so that it sees the responses of all others.

    It sets `request.state.request_id` (the client's X-Request-ID if that is short and harmless to log, else a new one)
    and `started`, and reads `caller` and `stages`, which routes set.

    Args:
        app: the application inside.
        metrics: they count each request.
        tracing: it records each request but probes; None for no traces.
        names_requests: whether app.telemetry.answer_log needs the id of the request that is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        tracing: Tracing | None,
        names_requests: bool = False,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._names_requests = names_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_for(headers.get(REQUEST_ID_HEADER, ""))
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "started": time.perf_counter(), "stages": [], "caller": ""}
        if self._names_requests:
            REQUEST_ID.set(request_id)
        status = 499  # stays if no response was sent

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                message = {**message, "headers": [*message["headers"], *self._more_headers(scope, message, request_id)]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._record(scope, headers, status)

    def _more_headers(self, scope: Scope, message: Message, request_id: str) -> Iterator[tuple[bytes, bytes]]:
        """The headers that every response gets, beside its own."""
        own = {name for name, _ in message["headers"]}
        yield _REQUEST_ID_FIELD, request_id.encode()
        if revision := scope["state"].get("revision"):
            yield _REVISION_FIELD, revision.encode()
        if scope["path"] in _DOCS_PATHS:
            own.add(_POLICY_FIELD)
            yield _POLICY_FIELD, _DOCS_CONTENT_SECURITY_POLICY
        for name, value in SECURITY_HEADERS.items():
            if name not in own:
                yield name, value

    def _record(self, scope: Scope, headers: Headers, status: int) -> None:
        state = scope["state"]
        seconds = time.perf_counter() - state["started"]
        method, route = _labels(scope)
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        log_request(
            scope["method"],
            route,
            status,
            seconds,
            client=(scope.get("client") or ("",))[0],
            state=state,
            model=scope.get("path_params", {}).get("name") if status < 400 else None,
        )
        if self._tracing is not None and route not in PROBE_PATHS:
            self._tracing.record(scope["method"], route, status, headers, state)


def request_id_for(client_id: str) -> str:
    """The client's own id if it is short and harmless to log, else a new one."""
    return client_id if _ACCEPTED_REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex


def _labels(scope: Scope) -> tuple[str, str]:
    """The request's method and its route's path, such as /v2/models/{name}; "other" if unknown.

    Other text of clients must not become metrics or log lines: it has no bound, and may be a key in the wrong place.
    """
    # Newer versions of FastAPI keep an included router: its routes have the end of the path, this has the whole.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    if route is None:
        return "other", "other"
    known = {"OPTIONS", *route.methods} | ({"HEAD"} if "GET" in route.methods else set())
    return scope["method"] if scope["method"] in known else "other", str(getattr(route, "path_format", route.path))


def log_request(
    method: str,
    route: str,
    status: int | str,
    seconds: float,
    *,
    client: str,
    state: Mapping[str, Any],
    model: str | None,
    quiet: bool = False,
) -> None:
    """Log an answered request; a probe, or one that is `quiet`, as debug.

    Args:
        method: of HTTP, or gRPC.
        route: its path, as the metrics have it.
        status: that it was answered with.
        seconds: from its headers to its answer.
        client: the client's address.
        state: has `request_id`, `caller` and `stages`.
        model: that it found, if it was answered.
        quiet: whether it is of little interest.
    """
    log.log(
        logging.DEBUG if quiet or route in PROBE_PATHS else logging.INFO,
        "request",
        method=method,
        route=route,
        status=status,
        ms=round(1000 * seconds, 1),
        request_id=state["request_id"],
        client=client,
        caller=state["caller"],
        **({"model": model} if model else {}),
        **{name: round(1000 * span.seconds, 1) for name, span in state["stages"]},
    )
