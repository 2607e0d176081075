"""Routes for clients that speak another service's dialect: Hugging Face, KServe's V1 protocol, TorchServe.

They are answered as POST /classify, /explain and /embed are, and their JSON is parsed where that of /v2 is.

Source: huggingface_hub's InferenceClient and @huggingface/tasks; KServe's data plane, V1; TorchServe's inference API.
"""

import re
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from app.api.auth import AccessLevel
from app.api.classify_routes import BROWN_OUT_RESPONSE, prediction_fields
from app.api.dependencies import Service, ServiceDep, caller_id, require_access, run_while_connected
from app.api.dialect_answers import (
    ImageAnswer,
    best_labels,
    check_room,
    classified_images,
    files_only,
    name_brown_out,
    open_request,
    parsed_images,
    read_image_or_json,
    refuse_query,
    uploaded_image,
    wanted_classes,
)
from app.api.dialect_schemas import (
    HUGGING_FACE_REQUEST,
    TORCHSERVE_ADVICE,
    TORCHSERVE_FIELDS,
    TORCHSERVE_REQUEST,
    V1_REQUEST,
    LabelScore,
    PingStatus,
    V1Explanations,
    V1Model,
    V1Models,
    V1Predictions,
)
from app.api.error_formats import OipError, TorchServeError
from app.api.image_requests import IMAGE_REQUEST_ERRORS
from app.api.oip_operations import MODEL_VERSION
from app.api.oip_routes import ModelName
from app.api.problems import ACCESS_ERRORS, error_responses
from app.errors import (
    BadImage,
    BadInference,
    NoInspection,
    NotAnImage,
    NotReady,
    UnknownCoding,
    UnknownModel,
)
from app.serving.explanation_fields import explanation_fields, rounded, with_length_one
from app.serving.together import together
from bundle.precisions import F32


class _BeforeColon(Convertor[str]):
    """Keeps the path of a model apart from those of its verbs, :predict and :explain."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("before_colon", _BeforeColon())

router = APIRouter(redirect_slashes=False)
_hugging_face = APIRouter(tags=["Hugging Face"], redirect_slashes=False)
_v1 = APIRouter(tags=["KServe V1"], redirect_slashes=False)
_torchserve = APIRouter(tags=["TorchServe"], redirect_slashes=False)

# The routes that classify, by whether their path names the model: app.api.early_refusal knows them too.
DEFAULT_MODEL_PATHS = ("/", "/pipeline/image-classification")
NAMED_MODEL_PATHS = {
    "/models/{name}": re.compile(r"/models/(?P<name>[^/]+)"),
    "/v1/models/{name}:predict": re.compile(r"/v1/models/(?P<name>[^/]+):predict"),
    "/predictions/{name}": re.compile(r"/predictions/(?P<name>[^/]+)"),
    "/predictions/{name}/{version}": re.compile(r"/predictions/(?P<name>[^/]+)/1(\.0)?"),
}

_TORCHSERVE_VERSIONS = (MODEL_VERSION, f"{MODEL_VERSION}.0")
_TORCHSERVE_CLASSES = 5
_RATE_LIMITED = [require_access(AccessLevel.KEY, rate_limited=True), Depends(refuse_query)]
_KEY_REQUIRED = [require_access(AccessLevel.KEY)]
_CLASSIFY_ERRORS = (*IMAGE_REQUEST_ERRORS, BadInference, NotAnImage, BadImage, UnknownCoding)
_CLASSIFY_RESPONSES = BROWN_OUT_RESPONSE | error_responses(*_CLASSIFY_ERRORS, model=OipError)
_INSPECT_RESPONSES = error_responses(*_CLASSIFY_ERRORS, NoInspection, model=OipError)
_TORCHSERVE_RESPONSES = BROWN_OUT_RESPONSE | error_responses(*_CLASSIFY_ERRORS, model=TorchServeError)
_HUGGING_FACE_ROUTE: dict[str, Any] = {
    "summary": "Classify one image",
    "openapi_extra": HUGGING_FACE_REQUEST,
    "responses": _CLASSIFY_RESPONSES,
    "dependencies": _RATE_LIMITED,
}
_TORCHSERVE_ROUTE: dict[str, Any] = {
    "summary": "Classify one image",
    "openapi_extra": TORCHSERVE_REQUEST,
    "responses": _TORCHSERVE_RESPONSES,
    "dependencies": _RATE_LIMITED,
}


@_hugging_face.post("/", **_HUGGING_FACE_ROUTE)
@_hugging_face.post("/pipeline/image-classification", **_HUGGING_FACE_ROUTE)
async def image_classification(request: Request, response: Response, service: ServiceDep) -> list[LabelScore]:
    """The best classes, as Hugging Face's task image-classification has them."""
    return await _label_scores(request, response, service, None)


@_hugging_face.post("/models/{name}", **_HUGGING_FACE_ROUTE)
async def image_classification_by(
    request: Request, response: Response, service: ServiceDep, name: ModelName
) -> list[LabelScore]:
    """The best classes, as Hugging Face's task image-classification has them."""
    return await _label_scores(request, response, service, name)


@_hugging_face.post(
    "/pipeline/feature-extraction",
    summary="Embed one image with the default model",
    openapi_extra=HUGGING_FACE_REQUEST,
    responses=_INSPECT_RESPONSES,
    dependencies=_RATE_LIMITED,
)
async def feature_extraction(request: Request, service: ServiceDep) -> list[list[float]]:
    """One row: the embedding of POST /embed, as Hugging Face's task feature-extraction has it."""
    deadline, caller = service.deadline(request), caller_id(request)
    with open_request(request, service, None) as (model, body):
        model.inspection.check(caller=caller)
        images = await read_image_or_json(request, service, model, body, deadline)
        files = files_only(images)
        work = model.inspection.embed(files, model.resolution(None), deadline, caller=caller)
        (answer,) = await run_while_connected(request, work)
    request.state.stages += answer.stages
    vector = np.concatenate(answer.image.embeddings)
    return [rounded(with_length_one(vector) if images.parameters.get("normalize") else vector)]


@router.get("/v1/models", responses=error_responses(*ACCESS_ERRORS, model=OipError), dependencies=_KEY_REQUIRED)
async def v1_models(service: ServiceDep) -> V1Models:
    """The names of the served models."""
    return V1Models(models=[entry.name for entry in service.repository.entries if entry.model is not None])


@_v1.get(
    "/v1/models/{name:before_colon}",
    responses=error_responses(*ACCESS_ERRORS, UnknownModel, NotReady, model=OipError),
    dependencies=_KEY_REQUIRED,
)
async def v1_model(service: ServiceDep, name: ModelName) -> V1Model:
    """Whether the model is ready."""
    await service.group.check_ready(name)
    return V1Model(name=name)


@_v1.post(
    "/v1/models/{name}:predict",
    summary="Classify images",
    openapi_extra=V1_REQUEST,
    responses=_CLASSIFY_RESPONSES,
    dependencies=_RATE_LIMITED,
)
async def v1_predict(request: Request, response: Response, service: ServiceDep, name: ModelName) -> V1Predictions:
    """The best classes of each instance; the first error ends them all."""
    deadline = service.deadline(request)
    with open_request(request, service, name) as (model, body):
        check_room(request, service, model)
        sent = await body.whole()

        async def predicted() -> tuple[list[ImageAnswer], int]:
            images = await parsed_images(request, service, model, sent, "kserve_v1", deadline)
            count = wanted_classes(model, images)
            return await classified_images(request, service, model, images, deadline, count), count

        answers, count = await run_while_connected(request, predicted())
    name_brown_out(request, response)
    best = [prediction_fields(best_labels(one, count)) for one in answers]
    return V1Predictions.model_validate({"predictions": best})


@_v1.post(
    "/v1/models/{name}:explain",
    summary="Explain the best class of images",
    openapi_extra=V1_REQUEST,
    responses=_INSPECT_RESPONSES,
    dependencies=_RATE_LIMITED,
)
async def v1_explain(request: Request, service: ServiceDep, name: ModelName) -> V1Explanations:
    """What POST /explain says of the best class of each instance, which is an image file."""
    deadline, caller = service.deadline(request), caller_id(request)
    with open_request(request, service, name) as (model, body):
        inspection, resolution = model.inspection, model.resolution(None)
        inspection.check(caller=caller)
        parsing = parsed_images(request, service, model, await body.whole(), "kserve_v1", deadline)
        files = files_only(await run_while_connected(request, parsing))
        work = together(inspection.explain(file, (-1,), resolution, deadline, caller=caller) for file in files)
        answers = await run_while_connected(request, work)
    calibration = model.calibrations.at(F32, resolution)
    temperature = calibration.temperature if calibration else 1.0
    request.state.stages += max(answers, key=lambda answer: answer.stages[-1][1].end).stages
    found = [explanation_fields(model.bundle, resolution, answer, temperature) for answer in answers]
    return V1Explanations.model_validate({"explanations": found})


@_torchserve.post("/predictions/{name}", **_TORCHSERVE_ROUTE)
@_torchserve.put("/predictions/{name}", **_TORCHSERVE_ROUTE)
async def predictions_of(
    request: Request, response: Response, service: ServiceDep, name: ModelName
) -> dict[str, float]:
    """The five best classes, as TorchServe's image_classifier has them: scores by label.

    Of classes with the same label, all but the best have their wnid or index in the label.
    """
    deadline = service.deadline(request)
    with open_request(request, service, name) as (model, body):
        check_room(request, service, model)
        images = uploaded_image(await body.image(fields=TORCHSERVE_FIELDS, advice=TORCHSERVE_ADVICE))
        work = classified_images(request, service, model, images, deadline, _TORCHSERVE_CLASSES)
        (answer,) = await run_while_connected(request, work)
    name_brown_out(request, response)
    scores: dict[str, float] = {}
    for label, score in best_labels(answer, _TORCHSERVE_CLASSES):
        text = label.label if label.label not in scores else f"{label.label} ({label.wnid or label.index})"
        scores[text] = score
    return scores


@_torchserve.post("/predictions/{name}/{version}", **_TORCHSERVE_ROUTE)
@_torchserve.put("/predictions/{name}/{version}", **_TORCHSERVE_ROUTE)
async def predictions_of_version(
    request: Request,
    response: Response,
    service: ServiceDep,
    name: ModelName,
    version: Annotated[str, Path(description="its version, always '1' or '1.0'", examples=["1.0"])],
) -> dict[str, float]:
    """As without the version."""
    if version not in _TORCHSERVE_VERSIONS:
        raise UnknownModel(f"{name[:60]!r} has no version {version[:20]!r}; its only version is {MODEL_VERSION!r}")
    return await predictions_of(request, response, service, name)


@_torchserve.get(
    "/ping",
    summary="Health",
    responses=error_responses(*ACCESS_ERRORS, NotReady, model=TorchServeError),
)
async def ping(request: Request, service: ServiceDep) -> PingStatus:
    """As /readyz, for probes of TorchServe."""
    await service.authorize(request, AccessLevel[service.settings.health_access.upper()])
    await service.group.check_ready()
    return PingStatus()


async def _label_scores(request: Request, response: Response, service: Service, name: str | None) -> list[LabelScore]:
    deadline = service.deadline(request)
    with open_request(request, service, name) as (model, body):
        check_room(request, service, model)
        images = await read_image_or_json(request, service, model, body, deadline)
        count, function = wanted_classes(model, images), images.parameters.get("function_to_apply")
        own = function in (None, model.bundle.manifest.activation)
        work = classified_images(request, service, model, images, deadline, count if own else 0)
        (answer,) = await run_while_connected(request, work)
    name_brown_out(request, response)
    return [LabelScore(label=label.label, score=score) for label, score in best_labels(answer, count, function)]


for routes in (_hugging_face, _v1, _torchserve):
    router.include_router(routes)
