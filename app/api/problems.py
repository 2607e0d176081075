"""Error responses: application/problem+json (RFC 9457), or what `error_formats` has for other protocols."""

import logging
import random
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.api.content_coding import CODINGS
from app.api.error_formats import PROBLEM_MEDIA_TYPE, ErrorFormat, OipError, error_format
from app.api.inspection_schemas import EmbedOptions, ExplainOptions
from app.api.observability_middleware import PROBE_PATHS
from app.api.schemas import ClassifyOptions, ImageOptions, Problem
from app.errors import (
    BadBody,
    BadImage,
    BadInference,
    BadParameter,
    EngineFailed,
    EngineHung,
    Forbidden,
    LoadFailed,
    NoEngine,
    NoImage,
    NoInspection,
    NotAnImage,
    NotCalibrated,
    NotReady,
    Overloaded,
    QueueFull,
    RateLimited,
    SlowClient,
    TooLarge,
    TooLate,
    Unauthorized,
    UnknownCoding,
    UnknownModel,
    WrongAnswers,
)
from bundle.bundle_errors import BadBundle, ExplainedError
from model.pydantic_errors import describe_error

log = logging.getLogger(__name__)

_CLIENT_CLOSED_REQUEST = 499  # nginx's number, for the log

_OPTIONS: dict[str, type[ImageOptions]] = {"explain": ExplainOptions, "embed": EmbedOptions}  # by the ends of paths
ACCESS_ERRORS = (Unauthorized, Forbidden)
_METHODS = ("GET", "POST", "PUT")  # that routes take

STATUS: dict[type[ExplainedError], HTTPStatus] = {
    NoImage: HTTPStatus.BAD_REQUEST,
    BadBody: HTTPStatus.BAD_REQUEST,
    BadInference: HTTPStatus.BAD_REQUEST,
    LoadFailed: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    UnknownModel: HTTPStatus.NOT_FOUND,
    SlowClient: HTTPStatus.REQUEST_TIMEOUT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotAnImage: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UnknownCoding: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BadImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    BadParameter: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoInspection: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotCalibrated: HTTPStatus.UNPROCESSABLE_ENTITY,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    EngineFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    WrongAnswers: HTTPStatus.SERVICE_UNAVAILABLE,
    BadBundle: HTTPStatus.SERVICE_UNAVAILABLE,
    NoEngine: HTTPStatus.SERVICE_UNAVAILABLE,
    TooLate: HTTPStatus.GATEWAY_TIMEOUT,
    EngineHung: HTTPStatus.GATEWAY_TIMEOUT,
}


def add_error_handlers(app: FastAPI) -> None:
    """Answer the errors that the framework raises in the formats of the service; `error_response` has the others."""
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _framework_error)


def status_of(err: ExplainedError) -> HTTPStatus:
    return next(status for kind, status in STATUS.items() if isinstance(err, kind))


def problem_of(err: ExplainedError, request_id: str) -> Problem:
    """The problem details of `err`."""
    status = status_of(err)
    return Problem(
        title=status.phrase, status=status, reason=type(err).__name__, detail=str(err), request_id=request_id
    )


def retry_after(err: ExplainedError) -> int | None:
    """The seconds of the response's Retry-After, if it has one.

    Those of a refusal that hits many clients at once are spread at random, by half of them or a second, so that the
    clients do not come back at once either.
    """
    if err.retry_after is None or isinstance(err, RateLimited):
        return err.retry_after
    return err.retry_after + random.randint(0, max(1, err.retry_after // 2))  # noqa: S311, nothing secret


def error_responses(
    *errors: type[ExplainedError], inference: bool = False, model: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these errors, for a route's `responses`; `model` is that of another format."""
    kind = "application/json" if inference or model else PROBLEM_MEDIA_TYPE
    model = model or (OipError if inference else Problem)
    described: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        status = STATUS[error]
        described[int(status)] = {
            "description": status.phrase,
            "content": {kind: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}},
        }
    return described


def error_response(request: Request, err: Exception) -> Response:
    """The response to what a route raised: the problem of `err`, or 500 for a defect, which is logged."""
    if isinstance(err, ExplainedError):
        return _explained_response(request, err)
    if isinstance(err, ClientDisconnect):
        return Response(status_code=_CLIENT_CLOSED_REQUEST)  # nobody reads it
    log.error("request %s failed", request.state.request_id, exc_info=err)
    return _response(request, HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed; see its log")


def _response(request: Request, status: HTTPStatus, detail: str) -> JSONResponse:
    problem = Problem(title=status.phrase, status=status, detail=detail, request_id=request.state.request_id)
    return _problem_response(request, problem)


def problem_response(problem: Problem, form: ErrorFormat) -> JSONResponse:
    """The problem in the format `form`."""
    if form is None:
        return JSONResponse(problem.model_dump(), problem.status, media_type=PROBLEM_MEDIA_TYPE)
    return JSONResponse(form.of(problem).model_dump(), problem.status)


def _problem_response(request: Request, problem: Problem) -> JSONResponse:
    return problem_response(problem, error_format(request.method, request.url.path))


def _explained_response(request: Request, err: ExplainedError) -> JSONResponse:
    _count(request, type(err))
    response = _problem_response(request, problem_of(err, request.state.request_id))
    if (seconds := retry_after(err)) is not None:
        response.headers["Retry-After"] = str(seconds)
    if isinstance(err, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(err, UnknownCoding):
        response.headers["Accept-Encoding"] = ", ".join((*CODINGS, "identity"))  # RFC 9110, 15.5.16
    if isinstance(err, SlowClient):
        response.headers["Connection"] = "close"  # do not wait for the rest of the body
    return response


async def _validation_error(request: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, RequestValidationError)
    options = _OPTIONS.get(request.url.path.rpartition("/")[2], ClassifyOptions)
    return _explained_response(request, invalid_parameters(err.errors(), options))


def invalid_parameters(errors: Sequence[Mapping[str, Any]], options: type[ImageOptions]) -> BadParameter:
    """The error for the `options` that pydantic found invalid, with the reasons; `errors` are pydantic's."""
    return BadParameter("; ".join(_describe(error, options) for error in errors[:3]))


def _count(request: Request, kind: type[ExplainedError]) -> None:
    if request.url.path not in PROBE_PATHS:  # a probe's 503 is not a rejected request
        request.app.state.service.metrics.rejected.labels(kind.__name__).inc()


def _describe(error: Mapping[str, Any], options: type[ImageOptions]) -> str:
    name = str(error["loc"][-1])[:40]
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {name!r}; the parameters are {', '.join(options.names())}"
    field = dict(zip(options.names(), options.model_fields.values(), strict=True)).get(name)
    rule = f"it {describe_error(error)}" if field is None else f"{name} is {field.description}"
    return f"invalid {name}={str(error['input'])[:40]!r}: {rule}"


async def _framework_error(request: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, HTTPException)
    status = HTTPStatus(err.status_code)
    if status == HTTPStatus.NOT_FOUND:
        why = f"the service has no such path{_similar_path(request)}"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request) or (err.headers or {}).get("Allow", "GET")
        err.headers = {**(err.headers or {}), "Allow": allowed}
        why = f"this path takes {allowed}"
    else:
        why = status.phrase
    detail = f"{request.method} {request.url.path}: {why}"
    response = _response(request, status, detail)
    response.headers.update(err.headers or {})
    return response


def _allowed_methods(request: Request) -> str:
    """The methods of all routes of the path; the framework names those of the first one."""
    routes = request.app.routes
    return ", ".join(
        method
        for method in _METHODS
        if any(route.matches(dict(request.scope, method=method))[0] == Match.FULL for route in routes)
    )


def _similar_path(request: Request) -> str:
    """A hint at a path that differs only in slashes and capital letters.

    The path is named and not served: a proxy may close a path only as it is written.
    """
    path: str = request.scope["path"]
    without_slashes = re.sub("/+", "/", path).rstrip("/")
    for similar in (without_slashes, without_slashes.lower()):
        scope = dict(request.scope, path=similar)
        if similar != path and any(route.matches(scope)[0] != Match.NONE for route in request.app.routes):
            return f"; did you mean {similar}?"
    return ""
