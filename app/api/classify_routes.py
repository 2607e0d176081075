"""POST /classify and POST /classify/batch: image files in, the best classes out."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

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
from app.api.image_requests import (
    BINARY_STRING,
    IMAGE_REQUEST,
    IMAGE_REQUEST_ERRORS,
    answered_by,
    in_milliseconds,
    read_image_request,
    with_more,
)
from app.api.openapi import TIMEOUT_PARAMETER
from app.api.problems import error_responses, problem_of
from app.api.request_body import BATCH_FIELD, RequestBody, Upload
from app.api.schemas import (
    AnsweredBy,
    BatchClassification,
    Classification,
    ClassifyOptions,
    ImageResult,
)
from app.decoding.content_kind import file_refusal
from app.errors import (
    BadImage,
    NotAnImage,
    NotCalibrated,
    UnknownCoding,
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
                    "properties": {BATCH_FIELD: {"type": "array", "items": BINARY_STRING, "minItems": 1}},
                },
            },
        },
    },
}
BROWN_OUT_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            BROWN_OUT_HEADER: {
                "description": "the rung of the brown-out, where a cheaper step answered than was asked for",
                "schema": {"type": "integer"},
            }
        }
    }
}
_CLASSIFY_ERRORS = (*IMAGE_REQUEST_ERRORS, NotCalibrated)


@router.post(
    "/classify",
    summary="Classify one image",
    tags=["Classification"],
    openapi_extra=IMAGE_REQUEST,
    response_model_exclude_unset=True,
    responses=error_responses(*_CLASSIFY_ERRORS, NotAnImage, BadImage) | BROWN_OUT_RESPONSE,
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True), SINGLE_PARAMETERS],
)
async def classify(
    request: Request, options: Annotated[ClassifyOptions, Query()], service: ServiceDep
) -> Classification:
    """The best classes for one image."""
    deadline = service.deadline(request)
    reading = read_image_request(request, service, options, _read_image, partial(_check, service))
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
        "model": _answered(found.step, calibrated=found.answer.calibration is not None),
        **step_fields(request, found.step),
        "timing_ms": {
            "decode": in_milliseconds(sum([answer.decode.seconds for answer in answers])),
            "queue": in_milliseconds(sum([answer.queued for answer in answers])),
            "inference": in_milliseconds(sum([answer.inference.seconds for answer in answers])),
            "total": in_milliseconds(seconds_since_start(request)),
        },
        "request_id": request.state.request_id,
    })  # fmt: skip


@router.post(
    "/classify/batch",
    summary="Classify several images",
    tags=["Classification"],
    openapi_extra=_BATCH_REQUEST,
    response_model_exclude_unset=True,
    responses=error_responses(*_CLASSIFY_ERRORS, UnknownCoding) | BROWN_OUT_RESPONSE,
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True), SINGLE_PARAMETERS],
)
async def classify_batch(
    request: Request, options: Annotated[ClassifyOptions, Query()], service: ServiceDep
) -> BatchClassification:
    """The best classes for each of several images; one that cannot be classified has a problem of its own."""
    deadline = service.deadline(request)
    max_files = service.settings.max_images
    reading = read_image_request(
        request,
        service,
        options,
        lambda body: body.images(max_files, ClassifyOptions.model_fields),
        partial(_check, service),
    )
    async with reading as (model, options, upload):
        plan = answer_plan(service, model, options)
        caller = caller_id(request)
        await service.charge(request, len(upload.files))

        problems = {index: err for index, (_, image) in enumerate(upload.files) if (err := file_refusal(image))}
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
                own = _answered(step, calibrated=answer.calibration is not None)
                calibrated = calibrated and (own.calibrated or step is not plan.first)
                fields = {"index": index, "filename": name, **_classified(outcome, options)}
                if steps := step_fields(request, step):
                    fields |= steps | {"model": own}
                results.append(ImageResult.model_validate(fields))
    return BatchClassification(
        results=results,
        model=_answered(plan.first, calibrated=calibrated),
        total_ms=in_milliseconds(seconds_since_start(request)),
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
        answer = await endpoint(request, with_more(_DEFAULTS, request.query_params), service)
        rung = getattr(request.state, "brown_out", 0)
        headers = {BROWN_OUT_HEADER: str(rung)} if rung else None
        return Response(answer.model_dump_json(exclude_unset=True), headers=headers, media_type="application/json")

    return handler


DIRECT_ROUTES = [
    DirectRoute("/classify", _directly(classify)),
    DirectRoute("/classify/batch", _directly(classify_batch)),
]


async def _read_image(body: RequestBody) -> Upload:
    return await body.image(ClassifyOptions.model_fields)


def _check(service: Service, model: ServedModel, options: ClassifyOptions, caller: str) -> None:
    answer_plan(service, model, options).first.model.check(caller=caller)


def _best(options: ClassifyOptions) -> int:
    """How many best classes the engine is asked for; 0, for the logits, where more is made of these."""
    return options.top_k if options.coverage is None and options.details is None else 0


def _classified(found: StepAnswer, options: ClassifyOptions) -> dict[str, Any]:
    """The fields that say what the image is: the best classes, and what else `options` ask for."""
    model, answer = found.step.model, found.answer
    labels, activation = model.bundle.labels, model.bundle.manifest.activation
    if _best(options):
        return {"predictions": prediction_fields(answer.best(labels))}
    temperature = answer.calibration.temperature if answer.calibration else 1.0
    best = best_classes(answer.outputs[0], options.top_k, activation, temperature)
    fields: dict[str, Any] = {"predictions": prediction_fields(_labelled(best, labels))}
    if options.coverage is not None:
        command = model.calibration_command(answer.resolution)
        fitted = fitted_threshold(answer.calibration, options.coverage, activation, command)
        covering = covering_set(answer.outputs, *fitted)
        classes = prediction_fields(_labelled(covering.classes, labels))
        fields["prediction_set"] = {"coverage": covering.coverage, "classes": classes}
    if options.details is not None:
        branches = branch_answers(answer.outputs, activation)
        (small,), (large,) = (prediction_fields(_labelled([one], labels)) for one in (branches.small, branches.large))
        fields["branches"] = {"small": small, "large": large, "disagreement": branches.disagreement}
    return fields


def _labelled(classes: list[IndexedScore], labels: list[ClassLabel]) -> list[tuple[ClassLabel, float]]:
    return [(labels[index], score) for index, score in classes]


def prediction_fields(classes: list[tuple[ClassLabel, float]]) -> list[dict[str, Any]]:
    """The fields of a Prediction for each; all of an answer are validated at once."""
    return [
        {"rank": rank, "index": label.index, "wnid": label.wnid, "label": label.label, "score": score}
        for rank, (label, score) in enumerate(classes, start=1)
    ]


def step_fields(request: Request, step: ServedStep) -> dict[str, Any]:
    """The field that says which step of a cascade answered, if one did, which is counted; the header of a brown-out."""
    if step.of == 1:
        return {}
    metrics: Metrics = request.app.state.service.metrics
    metrics.cascade_answers.labels(step.model.bundle.name, str(step.number)).inc()
    if step.brown_out:
        metrics.brown_out_answers.labels(step.model.bundle.name, str(step.brown_out)).inc()
        request.state.brown_out = step.brown_out
    return {"step": {"number": step.number, "of": step.of}}


def _answered(step: ServedStep, *, calibrated: bool) -> AnsweredBy:
    return answered_by(step.model, step.resolution, step.model.engine(step.resolution), calibrated=calibrated)
