"""Refusals that need nothing of a request but its head: the model's queue is full, or the model is not ready.

A refusal must cost far less than an answer: else a flood of requests that are refused takes the time of those that are
accepted. So this one is decided and written without an ASGI task, middleware, routing and the body. It is what the
route would answer; a request that the route may answer otherwise has no early refusal.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.requests import Request

from app.api.answer_plan import answer_plan
from app.api.auth import AccessLevel
from app.api.dependencies import Service, caller_id
from app.api.dialect_routes import DEFAULT_MODEL_PATHS, NAMED_MODEL_PATHS
from app.api.entry_middleware import MAX_QUERY_PARAMETERS
from app.api.error_formats import ErrorFormat, error_format
from app.api.observability_middleware import REQUEST_ID_HEADER, SECURITY_HEADERS, request_id_for
from app.api.oip_operations import MODEL_VERSION
from app.api.oip_routes import json_bytes
from app.api.problems import problem_of, problem_response, retry_after, status_of
from app.api.schemas import ClassifyOptions
from app.errors import NotReady, QueueFull
from bundle.bundle_errors import ExplainedError

_CLASSIFY_PATHS = ("/classify", "/classify/batch")
_INFER_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(?P<version>/versions/[^/]+)?/infer")
_VERSION_PATH = f"/versions/{MODEL_VERSION}"
_REQUEST_ID = uuid.uuid4().hex  # its place in a prepared body


class _Target(NamedTuple):
    """What a request asks for: the route's path, as the metrics have it, and the options of its path and query.

    `inference` is for the Open Inference Protocol, whose requests take no cheaper step under load.
    """

    route: str
    options: ClassifyOptions
    inference: bool = False


@dataclass(frozen=True)
class EarlyRefusal:
    """Why a request is refused, and what its response and the metrics need to know of it.

    Attributes:
        route: the route's path, as the metrics have it.
        form: the format of the response's body.
        varies: whether pages of other origins may call the service, which all its responses say.
    """

    error: ExplainedError
    request_id: str
    route: str
    form: ErrorFormat
    varies: bool

    @property
    def status(self) -> HTTPStatus:
        return status_of(self.error)

    def response(self, default_headers: Iterable[tuple[bytes, bytes]], *, closes: bool) -> bytes:
        """The whole response, as the application and the server would write it."""
        error: Callable[[str], ExplainedError] = type(self.error)
        body, kind = _prepared(error, str(self.error), self.form)
        body = body.replace(_REQUEST_ID.encode(), self.request_id.encode())
        seconds = retry_after(self.error)
        headers = [*default_headers, (b"content-length", b"%d" % len(body)), (b"content-type", kind)]
        headers += [] if seconds is None else [(b"retry-after", b"%d" % seconds)]
        headers += [(b"vary", b"Origin")] if self.varies else []
        headers += [(REQUEST_ID_HEADER.lower().encode(), self.request_id.encode()), *SECURITY_HEADERS.items()]
        headers += [(b"connection", b"close")] if closes else []
        lines = [_STATUS_LINES[self.status], *(b"%s: %s" % header for header in headers)]
        return b"\r\n".join([*lines, b"", body])


class EarlyRefusals:
    """Decides by the heads of requests whether `service` refuses them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def refusal_of(self, scope: Mapping[str, Any], path: str) -> EarlyRefusal | None:
        """The refusal of the POST request `scope`, which has `client` and `server`, to `path` below the path prefix.

        None if it may be accepted, or if the application answers it otherwise.
        """
        target = _target(path, scope["query_string"])
        # The count of a rate limit may be in another process.
        if target is None or self._service.access.rate_limited or self._has_room(target):
            return None
        request = Request({"type": "http", **scope, "state": {"started": 0.0, "caller": ""}})
        if "origin" in request.headers:  # the response may need CORS headers
            return None
        try:
            self._check(request, target)
        except (NotReady, QueueFull) as err:
            return self._refusal(request, target, err)
        except ExplainedError:
            return None
        return None

    def count(self, refusal: EarlyRefusal, seconds: float, *, sent: bool) -> None:
        """Count in the metrics a refusal that was `sent`, or whose client left, after `seconds`."""
        metrics = self._service.metrics
        metrics.rejected.labels(type(refusal.error).__name__).inc()
        metrics.requests.labels(refusal.route, "POST", str(int(refusal.status)) if sent else "499").inc()
        metrics.request_seconds.labels(refusal.route).observe(seconds)

    def _has_room(self, target: _Target) -> bool:
        """Whether any caller's request would be accepted now. It is asked for each request, so it costs little."""
        canary = self._service.canary
        if canary is not None and (target.options.model or self._service.repository.default) == canary.name:
            return True  # one of the two bundles may have room: the application chooses
        with suppress(ExplainedError):
            model = self._service.repository.model(target.options.model)
            if self._service.brown_out is not None and not target.inference:
                model = answer_plan(self._service, model, target.options).first.model
            model.check()
            return True
        return False

    def _check(self, request: Request, target: _Target) -> None:
        """Raise what the application would raise first for `request`, before it reads the body."""
        service = self._service
        service.origin_policy.check_host(request.headers)
        service.origin_policy.check_page(request.headers)
        port = (request["server"] or ("", None))[1]
        request.state.caller = service.access.check(request.headers, port, AccessLevel.KEY)
        service.deadline(request)
        if target.inference:
            json_bytes(request)
        model = service.repository.model(target.options.model)
        answer_plan(service, model, target.options).first.model.check(caller=caller_id(request))

    def _refusal(self, request: Request, target: _Target, error: ExplainedError) -> EarlyRefusal:
        request_id = request_id_for(request.headers.get(REQUEST_ID_HEADER, ""))
        error = error.with_traceback(None)  # which would keep the request's objects
        service = self._service
        return EarlyRefusal(
            error,
            request_id,
            target.route,
            error_format("POST", target.route),
            varies=bool(service.settings.cors_origins),
        )


def _target(path: str, query: bytes) -> _Target | None:
    if path in _CLASSIFY_PATHS:
        options = _options(query)
        return None if options is None else _Target(path, options)
    if query.count(b"&") >= MAX_QUERY_PARAMETERS:
        return None
    if match := _INFER_PATH.fullmatch(path):
        if match["version"] not in (None, _VERSION_PATH):
            return None
        version = "" if match["version"] is None else "/versions/{version}"
        return _Target(f"/v2/models/{{name}}{version}/infer", ClassifyOptions(model=match["name"]), inference=True)
    if query:  # the routes below take none: the application says so
        return None
    if path in DEFAULT_MODEL_PATHS:
        return _Target(path, ClassifyOptions())
    for route, pattern in NAMED_MODEL_PATHS.items():
        if match := pattern.fullmatch(path):
            return _Target(route, ClassifyOptions(model=match["name"]))
    return None


@lru_cache(maxsize=256)
def _options(query: bytes) -> ClassifyOptions | None:
    """The options of a query; None if the application has to say what is wrong with them."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs) or not all(options.values()):
        return None
    try:
        return ClassifyOptions.model_validate(options)
    except ValidationError:
        return None


@lru_cache(maxsize=1024)  # the numbers of waiting images are in the texts
def _prepared(error: Callable[[str], ExplainedError], text: str, form: ErrorFormat) -> tuple[bytes, bytes]:
    """The body with a place for the request's id, and its content type."""
    response = problem_response(problem_of(error(text), _REQUEST_ID), form)
    return bytes(response.body), response.headers["content-type"].encode()


_STATUS_LINES = {status: b"HTTP/1.1 %d %s" % (status, status.phrase.encode()) for status in HTTPStatus}
