"""POST /classify and POST /classify/batch: image files in, the best classes out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from app.api.auth import AccessLevel
from app.api.body import BATCH_FIELD, FILE_FIELD, RequestBody, Upload
from app.api.dependencies import (
    SINGLE_PARAMETERS,
    Service,
    ServiceDep,
    caller_id,
    require_access,
    run_while_connected,
    seconds_since_start,
)
from app.api.openapi import TIMEOUT_PARAMETER
from app.api.problems import ACCESS_ERRORS, error_responses, invalid_parameters, problem_of
from app.api.schemas import (
    AnsweredBy,
    BatchClassification,
    Classification,
    ClassifyOptions,
    ImageResult,
    Prediction,
    Timing,
)
from app.decoding.content_kind import mistaken
from app.errors import (
    BadBody,
    BadImage,
    BadParameter,
    EngineFailed,
    NoImage,
    NotAnImage,
    NotReady,
    QueueFull,
    SlowClient,
    TooLarge,
    TooLate,
    UnknownCoding,
    UnknownModel,
)
from app.serving.batcher import Place
from app.serving.served_model import ServedModel
from bundle.bundle_errors import ExplainedError
from bundle.reader import ClassLabel

router = APIRouter(redirect_slashes=False)

_BINARY = {"type": "string", "format": "binary"}
_FILE = _BINARY | {"minLength": 1}
_IMAGE_REQUEST = {
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
_BATCH_REQUEST = {
    "parameters": [TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "JPEG, PNG, WebP, GIF, BMP, AVIF or ICO files, each in a field of its own",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [BATCH_FIELD],
                    "properties": {BATCH_FIELD: {"type": "array", "items": _BINARY, "minItems": 1}},
                },
            },
        },
    },
}
_CLASSIFY_ERRORS = (
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


@router.post(
    "/classify",
    summary="Classify one image",
    tags=["Classification"],
    openapi_extra=_IMAGE_REQUEST,
    responses=error_responses(*_CLASSIFY_ERRORS, NotAnImage, BadImage),
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True), SINGLE_PARAMETERS],
)
async def classify(
    request: Request, options: Annotated[ClassifyOptions, Query()], service: ServiceDep
) -> Classification:
    """The best classes for one image."""
    deadline = service.deadline(request)
    reading = _read_request(request, service, options, lambda body: body.image(ClassifyOptions.model_fields))
    async with reading as (model, options, upload):
        resolution = model.resolution(options.resolution)
        caller = caller_id(request)
        with model.room(caller=caller) as (place,):
            work = model.file(place, upload.files[0].content, resolution, deadline, caller=caller)
            try:
                answer = await run_while_connected(request, work)
            except (NotAnImage, BadImage) as err:
                raise upload.with_content_type(err) from err
    request.state.stages += answer.stages
    return Classification(
        predictions=_predictions(answer.best(model.bundle.labels, options.top_k)),
        model=_answered_by(model, resolution),
        timing_ms=Timing(
            decode=_milliseconds(answer.decode.seconds),
            queue=_milliseconds(answer.queued),
            inference=_milliseconds(answer.inference.seconds),
            total=_milliseconds(seconds_since_start(request)),
        ),
        request_id=request.state.request_id,
    )


@router.post(
    "/classify/batch",
    summary="Classify several images",
    tags=["Classification"],
    openapi_extra=_BATCH_REQUEST,
    response_model_exclude_unset=True,
    responses=error_responses(*_CLASSIFY_ERRORS, UnknownCoding),
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True), SINGLE_PARAMETERS],
)
async def classify_batch(
    request: Request, options: Annotated[ClassifyOptions, Query()], service: ServiceDep
) -> BatchClassification:
    """The best classes for each of several images; one that cannot be classified has a problem of its own."""
    deadline = service.deadline(request)
    max_files = service.settings.max_images
    reading = _read_request(
        request, service, options, lambda body: body.images(max_files, ClassifyOptions.model_fields)
    )
    async with reading as (model, options, upload):
        resolution = model.resolution(options.resolution)
        caller = caller_id(request)
        service.charge(request, len(upload.files))

        async def classify_file(index: int, place: Place) -> ImageResult:
            name, image = upload.files[index]
            try:
                if not image:
                    raise NoImage("the file is empty")
                if kind := mistaken(image):
                    raise NotAnImage(f"the file is not an image but {kind}")
                answer = await model.file(place, image, resolution, deadline, caller=caller)
            except ExplainedError as err:
                service.metrics.rejected.labels(type(err).__name__).inc()
                return ImageResult(index=index, filename=name, problem=problem_of(err, request.state.request_id))
            request.state.stages = answer.stages  # of the last file, which the others waited for
            classes = answer.best(model.bundle.labels, options.top_k)
            return ImageResult(index=index, filename=name, predictions=_predictions(classes))

        async def classify_all(places: list[Place]) -> list[ImageResult]:
            return await asyncio.gather(*(classify_file(index, place) for index, place in enumerate(places)))

        with model.room(len(upload.files), caller) as places:
            results = await run_while_connected(request, classify_all(places))
    return BatchClassification(
        results=results,
        model=_answered_by(model, resolution),
        total_ms=_milliseconds(seconds_since_start(request)),
        request_id=request.state.request_id,
    )


@asynccontextmanager
async def _read_request(
    request: Request, service: Service, options: ClassifyOptions, read: Callable[[RequestBody], Awaitable[Upload]]
) -> AsyncIterator[tuple[ServedModel, ClassifyOptions, Upload]]:
    """The model, which is in use until the block ends, the options of query and form, and the result of `read`.

    A request whose query cannot be served is refused before its body is read.
    """
    model = service.repository.model(options.model)
    with model.in_use(), service.body_limits.open_body(request) as body:
        model.resolution(options.resolution)
        model.check(caller=caller_id(request))
        upload = await read(body)
        options = _with_form(options, upload.options)
        chosen = service.repository.model(options.model) if "model" in upload.options else model
        with chosen.in_use():
            yield chosen, options, upload


def _with_form(options: ClassifyOptions, form: Mapping[str, str]) -> ClassifyOptions:
    """The options of the query and of the form; BadParameter for an invalid one, or one that differs in the two."""
    try:
        added = ClassifyOptions.model_validate(form)
    except ValidationError as err:
        raise invalid_parameters(err.errors()) from err
    for name in options.model_fields_set & added.model_fields_set:
        if getattr(options, name) != getattr(added, name):
            raise BadParameter(f"{name} differs in the query and in the form: send it once")
    return options.model_copy(update=added.model_dump(exclude_unset=True))


def _predictions(classes: list[tuple[ClassLabel, float]]) -> list[Prediction]:
    return [
        Prediction(rank=rank, index=label.index, wnid=label.wnid, label=label.label, score=score)
        for rank, (label, score) in enumerate(classes, start=1)
    ]


def _answered_by(model: ServedModel, resolution: int) -> AnsweredBy:
    engine, precision = model.engine(resolution)
    return AnsweredBy(
        name=model.bundle.name,
        resolution=resolution,
        engine=engine,
        precision=precision,
        weights=model.bundle.manifest.weights.id,
        weights_source=model.bundle.manifest.weights.source,
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
