"""The service's own HTTP interface; the Open Inference Protocol's is in app/api/oip_routes.py."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from prometheus_client import exposition
from pydantic import ValidationError

from app.api.auth import Level
from app.api.body import FIELD, FIELDS, Body, Upload
from app.api.dependencies import Service, ServiceDep, caller, elapsed, sharer, while_connected
from app.api.problems import bad_parameters, problem_of, responses
from app.api.schemas import (
    AnsweredBy,
    BatchClassification,
    Classification,
    ClassifyOptions,
    Fallback,
    ImageResult,
    ModelInfo,
    ModelList,
    Prediction,
    Reloaded,
    Status,
    Timing,
)
from app.decoding.content_kind import mistaken
from app.errors import (
    BadBody,
    BadImage,
    BadParameter,
    EngineFailed,
    Forbidden,
    NoImage,
    NotAnImage,
    NotReady,
    QueueFull,
    SlowClient,
    TooLarge,
    TooLate,
    Unauthorized,
    UnknownCoding,
    UnknownModel,
)
from app.serving.repository import RepositoryEntry
from app.serving.served_model import ServedModel
from bundle.bundle_errors import ExplainedError
from bundle.class_labels import ClassLabel

router = APIRouter(redirect_slashes=False)

_BINARY = {"type": "string", "format": "binary"}
_FILE = _BINARY | {"minLength": 1}
TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "milliseconds after which an answer is of no use any more; the service has its own most",
    "schema": {"type": "integer", "minimum": 1},
}
_IMAGE = {
    "parameters": [TIMEOUT],
    "requestBody": {
        "required": True,
        "description": "JPEG, PNG, WebP, GIF, BMP, AVIF or ICO: a file in a form, or the body itself",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _FILE}},
            },
            **{kind: {"schema": _FILE} for kind in ("image/*", "application/octet-stream")},
        },
    },
}
_IMAGES = {
    "parameters": [TIMEOUT],
    "requestBody": {
        "required": True,
        "description": "JPEG, PNG, WebP, GIF, BMP, AVIF or ICO files, each in a field of its own",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELDS],
                    "properties": {FIELDS: {"type": "array", "items": _BINARY, "minItems": 1}},
                },
            },
        },
    },
}
_CLOSED = (Unauthorized, Forbidden)
_CLASSIFYING = (
    BadBody,
    NoImage,
    *_CLOSED,
    UnknownModel,
    SlowClient,
    TooLarge,
    BadParameter,
    QueueFull,
    EngineFailed,
    NotReady,
    TooLate,
)


async def _given_once(request: Request) -> None:
    """BadParameter for a query with a parameter twice."""
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if count > 1:
            raise BadParameter(f"the parameter {name[:40]!r} is given {count} times; give it once")


_parameters = Depends(_given_once)


@router.post(
    "/classify",
    summary="Classify one image",
    tags=["Classification"],
    openapi_extra=_IMAGE,
    responses=responses(*_CLASSIFYING, NotAnImage, BadImage),
    dependencies=[caller(Level.KEY, limited=True), _parameters],
)
async def classify(request: Request, options: Annotated[ClassifyOptions, Query()], here: ServiceDep) -> Classification:
    """The best classes for one image."""
    deadline = here.deadline(request)
    async with _asked(request, here, options, lambda body: body.image(ClassifyOptions.model_fields)) as (
        model,
        options,
        upload,
    ):
        resolution = model.resolution(options.resolution)
        sender = sharer(request)
        work = model.classify(upload.files[0].content, resolution, deadline, caller=sender)
        try:
            answer = await while_connected(request, work)
        except (NotAnImage, BadImage) as err:
            raise upload.explained(err) from err
    request.state.stages += answer.stages
    return Classification(
        predictions=_predictions(answer.best(model.bundle.labels, options.top_k)),
        model=_answered_by(model, resolution),
        timing_ms=Timing(
            decode=_milliseconds(answer.decode.seconds),
            queue=_milliseconds(answer.queued),
            inference=_milliseconds(answer.inference.seconds),
            total=_milliseconds(elapsed(request)),
        ),
        request_id=request.state.request_id,
    )


@router.post(
    "/classify/batch",
    summary="Classify several images",
    tags=["Classification"],
    openapi_extra=_IMAGES,
    response_model_exclude_unset=True,
    responses=responses(*_CLASSIFYING, UnknownCoding),
    dependencies=[caller(Level.KEY, limited=True), _parameters],
)
async def classify_batch(
    request: Request, options: Annotated[ClassifyOptions, Query()], here: ServiceDep
) -> BatchClassification:
    """The best classes for each of several images; one that cannot be classified has a problem of its own."""
    deadline = here.deadline(request)
    most = here.settings.max_images
    read = _asked(request, here, options, lambda body: body.images(most, ClassifyOptions.model_fields))
    async with read as (model, options, upload):
        resolution = model.resolution(options.resolution)
        files, sender = upload.files, sharer(request)
        here.charge(request, len(files))

        problems = {index: err for index, (_, image) in enumerate(files) if (err := _no_image(image))}
        bodies = [image for index, (_, image) in enumerate(files) if index not in problems]
        work = model.classify_each(bodies, resolution, deadline, caller=sender)
        outcomes = iter(await while_connected(request, work))
        results = []
        for index, (name, _) in enumerate(files):
            outcome = problems.get(index) or next(outcomes)
            if isinstance(outcome, ExplainedError):
                here.metrics.rejected.labels(type(outcome).__name__).inc()
                problem = problem_of(outcome, request.state.request_id)
                results.append(ImageResult(index=index, filename=name, problem=problem))
            else:
                request.state.stages = outcome.stages  # of the last one, which shows what the others waited for
                classes = outcome.best(model.bundle.labels, options.top_k)
                results.append(ImageResult(index=index, filename=name, predictions=_predictions(classes)))
    return BatchClassification(
        results=results,
        model=_answered_by(model, resolution),
        total_ms=_milliseconds(elapsed(request)),
        request_id=request.state.request_id,
    )


def _no_image(body: bytes) -> ExplainedError | None:
    """Why there is no image to decode in `body`, if that is so."""
    if not body:
        return NoImage("the image is empty")
    if what := mistaken(body):
        return NotAnImage(f"the file is no image but {what}")
    return None


@router.get(
    "/models",
    summary="The models",
    tags=["Classification"],
    responses=responses(*_CLOSED),
    dependencies=[caller(Level.KEY)],
)
async def models(here: ServiceDep) -> ModelList:
    """What is served, by which engine, with which weights."""
    return ModelList(models=[_describe(entry, here.repository.default) for entry in here.repository.entries])


@router.post(
    "/admin/reload",
    summary="Read the models on disk again",
    tags=["Operations"],
    responses=responses(*_CLOSED),
    dependencies=[caller(Level.ADMIN)],
)
async def reload(here: ServiceDep) -> Reloaded:
    """Serve what is on disk now, as SIGHUP does: load new and changed bundles, unload those that are gone."""
    return Reloaded(faults=await here.repository.reload())


@router.get("/livez", summary="Liveness", tags=["Operations"], responses=responses(*_CLOSED))
async def livez(request: Request, here: ServiceDep) -> Status:
    """The process answers."""
    await here.admit(request, Level[here.settings.health_access.upper()])
    return Status(status="alive")


@router.get(
    "/readyz",
    summary="Readiness",
    tags=["Operations"],
    responses=responses(*_CLOSED, UnknownModel, NotReady, BadParameter),
    dependencies=[_parameters],
)
async def readyz(
    request: Request,
    here: ServiceDep,
    deep: Annotated[bool, Query(description="send the golden images through the engines first")] = False,
    model: Annotated[str | None, Query(description="the model to ask for; the default if left out")] = None,
) -> Status:
    """The model's engine is loaded and has given the recorded logits, at its start or, with deep=1, just now."""
    probing = Level[here.settings.health_access.upper()]
    # Work for the engine, and the names of models, are for those who may classify.
    await here.admit(request, max(probing, Level.KEY) if deep or model else probing)
    if deep:
        here.origins.check_page(request.headers)
    await check_ready(here, model, deep=deep)
    return Status(status="ready")


@router.get(
    "/metrics",
    summary="Metrics",
    tags=["Operations"],
    response_class=Response,
    responses=responses(*_CLOSED) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, here: ServiceDep) -> Response:
    """What Prometheus scrapes."""
    await here.admit(request, Level[here.settings.metrics_access.upper()])
    try:
        encode, kind = exposition.choose_encoder(request.headers.get("Accept", ""))
        content = encode(here.metrics.registry)
    except (ValueError, TypeError):  # the client wishes for a version that is none
        encode, kind = exposition.choose_encoder("")
        content = encode(here.metrics.registry)
    return Response(content, headers={"Content-Type": kind})


@asynccontextmanager
async def _asked(
    request: Request, here: Service, options: ClassifyOptions, read: Callable[[Body], Awaitable[Upload]]
) -> AsyncIterator[tuple[ServedModel, ClassifyOptions, Upload]]:
    """The model, the options of the query and of the form, and what `read` finds in the body; the model is in use.

    What cannot be served is refused before the body is read, as far as the query says it.
    """
    model = here.repository.model(options.model)
    with model.in_use(), here.bodies.holding(request) as body:
        model.resolution(options.resolution)
        model.check(caller=sharer(request))
        upload = await read(body)
        options = _with_form(options, upload.options)
        chosen = here.repository.model(options.model) if "model" in upload.options else model
        with chosen.in_use():
            yield chosen, options, upload


def _with_form(options: ClassifyOptions, form: Mapping[str, str]) -> ClassifyOptions:
    """The options of the query and of the form; BadParameter for one that cannot be, or that differs in the two."""
    try:
        added = ClassifyOptions.model_validate(form)
    except ValidationError as err:
        raise bad_parameters(err.errors()) from err
    for name in options.model_fields_set & added.model_fields_set:
        if getattr(options, name) != getattr(added, name):
            raise BadParameter(f"{name} differs in the query and in the form; give it once")
    return options.model_copy(update=added.model_dump(exclude_unset=True))


async def check_ready(here: Service, name: str | None = None, *, deep: bool = False) -> None:
    """Raise NotReady, UnknownModel or WrongAnswers unless the model called `name`, or the default one, is ready."""
    if here.stopping:
        raise NotReady("the service is stopping")
    model = here.repository.model(name)
    if model.fault is not None:
        raise NotReady(f"{model.bundle.name}: {model.fault}", retry_after=1)
    if deep:
        with model.in_use():
            await model.self_test()


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


def _describe(entry: RepositoryEntry, default: str) -> ModelInfo:
    known = ModelInfo(
        name=entry.name, default=entry.name == default, state=entry.state, reason=entry.fault, variant=None
    )
    if entry.model is None:
        return known
    bundle = entry.model.bundle
    engine, precision = entry.model.engine()
    return known.model_copy(
        update={
            "variant": bundle.manifest.variant,
            "resolutions": bundle.resolutions,
            "default_resolution": bundle.manifest.default_resolution,
            "loaded_resolutions": entry.model.loaded,
            "classes": bundle.manifest.classes,
            "activation": bundle.manifest.activation,
            "mean": list(bundle.manifest.mean),
            "std": list(bundle.manifest.std),
            "engine": engine,
            "precision": precision,
            "fallbacks": [
                Fallback(engine=refused, resolution=resolution, reason=reason)
                for refused, resolution, reason in entry.model.refused
            ],
            "weights": bundle.manifest.weights.id,
            "weights_source": bundle.manifest.weights.source,
            "warning": bundle.warning,
            "bundle": bundle.hash,
        }
    )
