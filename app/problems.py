"""Errors at the edge: every one leaves as application/problem+json (RFC 9457), in the service's own words."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.errors import (
    BadBundle,
    BadImage,
    BadParameter,
    NoImage,
    NotAnImage,
    NotReady,
    ServiceError,
    TooLarge,
    UnknownModel,
)
from app.request_id import HEADER
from app.schemas import Options, Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[ServiceError], HTTPStatus] = {
    NoImage: HTTPStatus.BAD_REQUEST,
    UnknownModel: HTTPStatus.NOT_FOUND,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotAnImage: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BadImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    BadParameter: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    BadBundle: HTTPStatus.SERVICE_UNAVAILABLE,
}


def handle_problems(app: FastAPI) -> None:
    """Answer every error that a route of `app`, or the framework, raises."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _bad_parameters)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(ClientDisconnect, _client_has_gone)
    app.add_exception_handler(Exception, _defect)


def problem(request: Request, status: HTTPStatus, detail: str) -> JSONResponse:
    content = Problem(title=status.phrase, status=status, detail=detail, request_id=request.state.request_id)
    return JSONResponse(content.model_dump(), status, media_type=MEDIA_TYPE)


def responses(*errors: type[ServiceError]) -> dict[int | str, dict[str, object]]:
    """The OpenAPI description of these errors, for a route's `responses`."""
    return {
        int(STATUS[error]): {"description": STATUS[error].phrase, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
        for error in errors
    }


_SCHEMA = Problem.model_json_schema()


async def _service_error(request: Request, err: Exception) -> JSONResponse:
    status = next(status for kind, status in STATUS.items() if isinstance(err, kind))
    return problem(request, status, str(err))


async def _bad_parameters(request: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, RequestValidationError)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(map(_describe, err.errors()[:3])))


def _describe(error: dict[str, Any]) -> str:
    name = str(error["loc"][-1])[:40]
    field = Options.model_fields.get(name)
    if field is None:
        return f"there is no parameter {name!r}; one of {', '.join(Options.model_fields)}"
    return f"{name}={str(error['input'])[:40]!r} cannot be: {name} is {field.description}"


async def _framework_error(request: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, HTTPException)
    status = HTTPStatus(err.status_code)
    response = problem(request, status, f"{request.method} {request.url.path}: {status.description or status.phrase}")
    response.headers.update(err.headers or {})
    return response


async def _client_has_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; nginx's number for the access log


async def _defect(request: Request, _: Exception) -> JSONResponse:
    log.error("request %s failed; the reason follows", request.state.request_id)
    response = problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed; its log says more")
    response.headers[HEADER] = request.state.request_id  # this handler runs outside of the middleware
    return response
