"""POST /classify and POST /classify/batch: image files in, the best classes out."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ValidationError

from app.api.answer_plan import answer_plan
from app.api.auth import AccessLevel
from app.api.dependencies import (
    SINGLE_PARAMETERS,
    Service,
    ServiceDep,
    caller_id,
    refuse_repeated_parameters,
    require_access,
    run_while_connected,
    seconds_since_start,
)
from app.api.direct_routes import DirectRoute
from app.api.openapi import TIMEOUT_PARAMETER
from app.api.problems import ACCESS_ERRORS, error_responses, invalid_parameters, problem_of
from app.api.request_body import BATCH_FIELD, FILE_FIELD, RequestBody, Upload
from app.api.schemas import (
    AnsweredBy,
    BatchClassification,
    Classification,
    ClassifyOptions,
    ImageResult,
)
from app.decoding.content_kind import mistaken
from app.errors import (
    BadBody,
    BadImage,
    BadParameter,
    EngineFailed,
    NoImage,
    NotAnImage,
    NotCalibrated,
    NotReady,
    QueueFull,
    SlowClient,
    TooLarge,
    TooLate,
    UnknownCoding,
    UnknownModel,
)
from app.serving.answer_details import IndexedScore, branch_answers, covering_set, fitted_threshold
from app.serving.cascade import ServedStep, StepAnswer
from app.serving.served_model import ServedModel
from app.telemetry.metrics import Metrics
from bundle.bundle_errors import ExplainedError
from bundle.class_labels import ClassLabel
from bundle.scores import best_classes

router = APIRouter(redirect_slashes=False)

BROWN_OUT_HEADER = "X-Brown-Out"  # in an answer of a cheaper step than was asked for: the rung

_DEFAULTS = ClassifyOptions()

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
_BROWN_OUT_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            BROWN_OUT_HEADER: {
                "description": "the rung of the brown-out, where a cheaper step answered than was asked for",
                "schema": {"type": "integer"},
            }
        }
    }
}
_CLASSIFY_ERRORS = (
    BadBody,
    NoImage,
    *ACCESS_ERRORS,
    UnknownModel,
    SlowClient,
    TooLarge,
    BadParameter,
    NotCalibrated,
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
    responses=error_responses(*_CLASSIFY_ERRORS, NotAnImage, BadImage) | _BROWN_OUT_RESPONSE,
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True), SINGLE_PARAMETERS],
)
async def classify(
    request: Request, options: Annotated[ClassifyOptions, Query()], service: ServiceDep
) -> Classification:
    """The best classes for one image."""
    deadline = service.deadline(request)
    reading = _read_request(request, service, options, lambda body: body.image(ClassifyOptions.model_fields))
    async with reading as (model, options, upload):
        plan = answer_plan(service, model, options)
        caller = caller_id(request)
        work = plan.classify(upload.files[0].content, deadline, best=_best(options), caller=caller)
        try:
            found = await run_while_connected(request, work)
        except (NotAnImage, BadImage) as err:
            raise upload.with_content_type(err) from err
    answers = found.all
    for answer in answers:
        request.state.stages += answer.stages
    return Classification.model_validate({
        **_classified(found, options),
        "model": _answered_by(found.step, calibrated=found.answer.calibration is not None),
        **_step_fields(request, found.step),
        "timing_ms": {
            "decode": _milliseconds(sum([answer.decode.seconds for answer in answers])),
            "queue": _milliseconds(sum([answer.queued for answer in answers])),
            "inference": _milliseconds(sum([answer.inference.seconds for answer in answers])),
            "total": _milliseconds(seconds_since_start(request)),
        },
        "request_id": request.state.request_id,
    })  # fmt: skip


@router.post(
    "/classify/batch",
    summary="Classify several images",
    tags=["Classification"],
    openapi_extra=_BATCH_REQUEST,
    response_model_exclude_unset=True,
    responses=error_responses(*_CLASSIFY_ERRORS, UnknownCoding) | _BROWN_OUT_RESPONSE,
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
        plan = answer_plan(service, model, options)
        caller = caller_id(request)
        await service.charge(request, len(upload.files))

        problems = {index: err for index, (_, image) in enumerate(upload.files) if (err := _not_an_image(image))}
        images = [image for index, (_, image) in enumerate(upload.files) if index not in problems]
        work = plan.classify_each(images, deadline, best=_best(options), caller=caller)
        outcomes = iter(await run_while_connected(request, work))
        calibrated = plan.first.model.calibration(plan.first.resolution) is not None
        results = []
        for index, (name, _) in enumerate(upload.files):
            outcome = problems.get(index) or next(outcomes)
            if isinstance(outcome, ExplainedError):
                service.metrics.rejected.labels(type(outcome).__name__).inc()
                problem = problem_of(outcome, request.state.request_id)
                results.append(ImageResult(index=index, filename=name, problem=problem))
            else:
                answer, step = outcome.answer, outcome.step
                request.state.stages = answer.stages  # of the last image, which shows what the others waited for
                own = _answered_by(step, calibrated=answer.calibration is not None)
                calibrated = calibrated and (own.calibrated or step is not plan.first)
                fields = {"index": index, "filename": name, **_classified(outcome, options)}
                if steps := _step_fields(request, step):
                    fields |= steps | {"model": own}
                results.append(ImageResult.model_validate(fields))
    return BatchClassification(
        results=results,
        model=_answered_by(plan.first, calibrated=calibrated),
        total_ms=_milliseconds(seconds_since_start(request)),
        request_id=request.state.request_id,
    )


def _directly(
    endpoint: Callable[[Request, ClassifyOptions, Service], Awaitable[BaseModel]],
) -> Callable[[Request], Awaitable[Response]]:
    """What FastAPI does for `endpoint`, in the same order."""

    async def handler(request: Request) -> Response:
        service: Service = request.app.state.service
        await service.authorize(request, AccessLevel.KEY, rate_limited=True)
        await refuse_repeated_parameters(request)
        answer = await endpoint(request, _with_more(_DEFAULTS, request.query_params), service)
        rung = getattr(request.state, "brown_out", 0)
        headers = {BROWN_OUT_HEADER: str(rung)} if rung else None
        return Response(answer.model_dump_json(exclude_unset=True), headers=headers, media_type="application/json")

    return handler


DIRECT_ROUTES = [
    DirectRoute("/classify", _directly(classify)),
    DirectRoute("/classify/batch", _directly(classify_batch)),
]


def _not_an_image(body: bytes) -> ExplainedError | None:
    """The error for a file that need not be decoded, since it is not an image."""
    if not body:
        return NoImage("the file is empty")
    if kind := mistaken(body):
        return NotAnImage(f"the file is not an image but {kind}")
    return None


@asynccontextmanager
async def _read_request(
    request: Request, service: Service, options: ClassifyOptions, read: Callable[[RequestBody], Awaitable[Upload]]
) -> AsyncIterator[tuple[ServedModel, ClassifyOptions, Upload]]:
    """The model, which is in use until the block ends, the options of query and form, and the result of `read`.

    A request whose query cannot be served is refused before its body is read.
    """
    model = service.repository.model(options.model)
    with model.in_use(), service.body_limits.open_body(request) as body:
        answer_plan(service, model, options).first.model.check(caller=caller_id(request))
        upload = await read(body)
        options = _with_more(options, upload.options)
        chosen = service.repository.model(options.model) if "model" in upload.options else model
        with chosen.in_use():
            yield chosen, options, upload


def _with_more(options: ClassifyOptions, form: Mapping[str, str]) -> ClassifyOptions:
    """`options` and the ones written in `form`; BadParameter for an invalid one, or one that differs in the two."""
    if not form:
        return options
    try:
        added = ClassifyOptions.model_validate(form)
    except ValidationError as err:
        raise invalid_parameters(err.errors()) from err
    for name in options.model_fields_set & added.model_fields_set:
        if getattr(options, name) != getattr(added, name):
            raise BadParameter(f"{name} differs in the query and in the form: send it once")
    return options.model_copy(update=added.model_dump(exclude_unset=True))


def _best(options: ClassifyOptions) -> int:
    """How many best classes the engine is asked for; 0, for the logits, where more is made of these."""
    return options.top_k if options.coverage is None and options.details is None else 0


def _classified(found: StepAnswer, options: ClassifyOptions) -> dict[str, Any]:
    """The fields that say what the image is: the best classes, and what else `options` ask for."""
    model, answer = found.step.model, found.answer
    labels, activation = model.bundle.labels, model.bundle.manifest.activation
    if _best(options):
        return {"predictions": _predictions(answer.best(labels))}
    temperature = answer.calibration.temperature if answer.calibration else 1.0
    best = best_classes(answer.outputs[0], options.top_k, activation, temperature)
    fields: dict[str, Any] = {"predictions": _predictions(_labelled(best, labels))}
    if options.coverage is not None:
        command = model.calibration_command(answer.resolution)
        fitted = fitted_threshold(answer.calibration, options.coverage, activation, command)
        covering = covering_set(answer.outputs, *fitted)
        classes = _predictions(_labelled(covering.classes, labels))
        fields["prediction_set"] = {"coverage": covering.coverage, "classes": classes}
    if options.details is not None:
        branches = branch_answers(answer.outputs, activation)
        (small,), (large,) = (_predictions(_labelled([one], labels)) for one in (branches.small, branches.large))
        fields["branches"] = {"small": small, "large": large, "disagreement": branches.disagreement}
    return fields


def _labelled(classes: list[IndexedScore], labels: list[ClassLabel]) -> list[tuple[ClassLabel, float]]:
    return [(labels[index], score) for index, score in classes]


def _predictions(classes: list[tuple[ClassLabel, float]]) -> list[dict[str, Any]]:
    """The fields of a Prediction for each; all of an answer are validated at once."""
    return [
        {"rank": rank, "index": label.index, "wnid": label.wnid, "label": label.label, "score": score}
        for rank, (label, score) in enumerate(classes, start=1)
    ]


def _step_fields(request: Request, step: ServedStep) -> dict[str, Any]:
    """The field that says which step of a cascade answered, if one did, which is counted; the header of a brown-out."""
    if step.of == 1:
        return {}
    metrics: Metrics = request.app.state.service.metrics
    metrics.cascade_answers.labels(step.model.bundle.name, str(step.number)).inc()
    if step.brown_out:
        metrics.brown_out_answers.labels(step.model.bundle.name, str(step.brown_out)).inc()
        request.state.brown_out = step.brown_out
    return {"step": {"number": step.number, "of": step.of}}


def _answered_by(step: ServedStep, *, calibrated: bool) -> AnsweredBy:
    model, resolution = step.model, step.resolution
    weights = model.bundle.manifest.weights
    return _described(model.bundle.name, resolution, *model.engine(resolution), weights.id, weights.source, calibrated)


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


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
