"""What routes that take image files share: the request, the model that it names, and the parts of their answers."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError

from app.api.dependencies import Service, caller_id
from app.api.openapi import TIMEOUT_PARAMETER
from app.api.problems import ACCESS_ERRORS, invalid_parameters
from app.api.request_body import FILE_FIELD, RequestBody, Upload
from app.api.schemas import AnsweredBy, ImageOptions
from app.errors import (
    BadBody,
    BadParameter,
    EngineFailed,
    NoImage,
    NotReady,
    QueueFull,
    SlowClient,
    TooLarge,
    TooLate,
    UnknownModel,
)
from app.serving.served_model import ServedModel

Options = TypeVar("Options", bound=ImageOptions)

BINARY_STRING = {"type": "string", "format": "binary"}
_FILE = BINARY_STRING | {"minLength": 1}
IMAGE_REQUEST = {
    "parameters": [TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "JPEG, PNG, WebP, GIF, BMP, AVIF or ICO: a file in a form, or the body itself",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: _FILE}},
            },
            **{kind: {"schema": _FILE} for kind in ("image/*", "application/octet-stream")},
        },
    },
}
IMAGE_REQUEST_ERRORS = (
    BadBody,
    NoImage,
    *ACCESS_ERRORS,
    UnknownModel,
    SlowClient,
    TooLarge,
    BadParameter,
    QueueFull,
    EngineFailed,
    NotReady,
    TooLate,
)


@asynccontextmanager
async def read_image_request(
    request: Request,
    service: Service,
    options: Options,
    read: Callable[[RequestBody], Awaitable[Upload]],
    check: Callable[[ServedModel, Options, str], object],
) -> AsyncIterator[tuple[ServedModel, Options, Upload]]:
    """The model, which is in use until the block ends, the options of query and form, and the result of `read`.

    A request whose query cannot be served, or whose caller has no room in the model's queue, is refused before its body
    is read: `check` raises.
    """
    model = service.model(request, options.model)
    with model.in_use(), service.body_limits.open_body(request) as body:
        check(model, options, caller_id(request))
        upload = await read(body)
        options = with_more(options, upload.options)
        chosen = service.model(request, options.model) if "model" in upload.options else model
        with chosen.in_use():
            yield chosen, options, upload


def with_more(options: Options, form: Mapping[str, str]) -> Options:
    """`options` and the ones written in `form`; BadParameter for an invalid one, or one that differs in the two."""
    if not form:
        return options
    try:
        added = type(options).model_validate(form)
    except ValidationError as err:
        raise invalid_parameters(err.errors(), type(options)) from err
    for name in options.model_fields_set & added.model_fields_set:
        if getattr(options, name) != getattr(added, name):
            raise BadParameter(f"{name.rstrip('_')} differs in the query and in the form: send it once")
    return options.model_copy(update=added.model_dump(exclude_unset=True))


def answered_by(model: ServedModel, resolution: int, engine: tuple[str, str], *, calibrated: bool) -> AnsweredBy:
    """Who answered; `engine` is its name and precision."""
    weights = model.bundle.manifest.weights
    return _described(model.bundle.name, resolution, *engine, weights.id, weights.source, calibrated)


@lru_cache(maxsize=100)
def _described(
    name: str, resolution: int, engine: str, precision: str, weights: str, weights_source: str, calibrated: bool
) -> AnsweredBy:
    return AnsweredBy(
        name=name,
        resolution=resolution,
        engine=engine,
        precision=precision,
        weights=weights,
        weights_source=weights_source,
        calibrated=calibrated,
    )


def in_milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
