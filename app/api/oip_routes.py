"""The Open Inference Protocol (V2) over REST, with the extensions of Triton that app/decoding/oip_tensors.py names.

Source: the Open Inference Protocol's REST specification; Triton's documents of its extensions for binary tensor data,
classification, model configuration, model repository and statistics. A model has one version, "1".
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from numpy.typing import NDArray

from app.api.auth import AccessLevel
from app.api.dependencies import Service, ServiceDep, caller_id, require_access, run_while_connected
from app.api.direct_routes import DirectRoute
from app.api.oip_schemas import (
    INFER_REQUEST,
    INFER_RESPONSE,
    IndexEntry,
    IndexRequest,
    Live,
    LoadRequest,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    TensorMetadata,
    optional_body,
)
from app.api.oip_statistics import model_statistics
from app.api.problems import ACCESS_ERRORS, error_responses
from app.decoding.decoder_memory import PixelBlock
from app.decoding.oip_tensors import (
    BINARY,
    EMBEDDING,
    ENCODED,
    ENCODINGS,
    IMAGE,
    LENGTH_HEADER,
    InferenceRequest,
    OipObject,
    check_output,
    compress,
    parse_oip,
    write_outputs,
)
from app.engines.registry import NULL_ENGINE, ON_CPU
from app.errors import (
    BadBody,
    BadImage,
    BadInference,
    BadParameter,
    EngineFailed,
    LoadFailed,
    NotAnImage,
    NotReady,
    QueueFull,
    SlowClient,
    TooLarge,
    TooLate,
    UnknownCoding,
    UnknownModel,
)
from app.serving.served_model import ServedModel
from app.serving.together import together
from app.timing import Interval, until_deadline
from bundle.tensors import OUTPUTS
from model.spec import VARIANTS

MODEL_VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], redirect_slashes=False)
model_router = APIRouter(redirect_slashes=False)  # the routes of one model

ModelName = Annotated[str, Path(description="the name of a model")]
ModelVersion = Annotated[str, Path(description="its version, always '1'", examples=[MODEL_VERSION])]

NamedOutputs = dict[str, NDArray[np.float32]]  # each (images, numbers)
Stages = list[tuple[str, Interval]]
_Found = tuple[NamedOutputs, Stages]

_QUALITY = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)")

_BODY_ERRORS = (BadInference, BadBody, SlowClient, TooLarge, UnknownCoding)
_SERVER_RESPONSES = error_responses(*ACCESS_ERRORS, inference=True)
_READY_RESPONSES = error_responses(*ACCESS_ERRORS, NotReady, inference=True)
_MODEL_RESPONSES = error_responses(*ACCESS_ERRORS, UnknownModel, NotReady, inference=True)
_INFER_RESPONSES = INFER_RESPONSE | error_responses(
    *_BODY_ERRORS,
    *ACCESS_ERRORS,
    UnknownModel,
    QueueFull,
    EngineFailed,
    NotReady,
    TooLate,
    NotAnImage,
    BadImage,
    inference=True,
)
_INDEX_RESPONSES = error_responses(*ACCESS_ERRORS, *_BODY_ERRORS, inference=True)
_LOAD_RESPONSES = error_responses(*ACCESS_ERRORS, *_BODY_ERRORS, UnknownModel, LoadFailed, inference=True)
_UNLOAD_RESPONSES = error_responses(*ACCESS_ERRORS, UnknownModel, inference=True)
_KEY_REQUIRED = [require_access(AccessLevel.KEY)]
_ADMIN_REQUIRED = [require_access(AccessLevel.ADMIN)]


@router.get("", dependencies=_KEY_REQUIRED, responses=_SERVER_RESPONSES)
async def server() -> ServerMetadata:
    """The server's name, version and protocol extensions."""
    return ServerMetadata(name="crossvit", version=version("crossvit"), extensions=EXTENSIONS)


@router.get("/health/live", responses=_SERVER_RESPONSES)
async def live(request: Request, service: ServiceDep) -> Live:
    """The process answers."""
    await service.authorize(request, AccessLevel[service.settings.health_access.upper()])
    return Live()


@router.get("/health/ready", responses=_READY_RESPONSES)
async def ready(request: Request, service: ServiceDep) -> Ready:
    """The default model is ready."""
    await service.authorize(request, AccessLevel[service.settings.health_access.upper()])
    await service.group.check_ready()
    return Ready()


@router.get("/models/stats", dependencies=_KEY_REQUIRED, responses=_SERVER_RESPONSES)
async def all_statistics(service: ServiceDep) -> dict[str, Any]:
    """The statistics of all served models."""
    served = [entry.name for entry in service.repository.entries if entry.model is not None]
    return {"model_stats": await _statistics(service, served)}


@model_router.get("", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def metadata(service: ServiceDep, name: ModelName) -> ModelMetadata:
    """The inputs and outputs of a model. A request sends one of the inputs."""
    model = service.repository.model(name)
    return ModelMetadata(
        name=name,
        versions=[MODEL_VERSION],
        platform=f"crossvit_{model.engine()[0]}",
        inputs=[
            TensorMetadata(name=IMAGE, datatype="UINT8", shape=[-1, -1, -1, 3]),
            TensorMetadata(name=ENCODED, datatype="BYTES", shape=[-1]),
        ],
        outputs=[
            TensorMetadata(name=output, datatype="FP32", shape=[-1, width])
            for output, width in _output_widths(model).items()
        ],
    )


@model_router.get("/ready", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def model_ready(service: ServiceDep, name: ModelName) -> ModelReady:
    """The model is ready."""
    await service.group.check_ready(name)
    return ModelReady(name=name)


@model_router.get("/config", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def config(service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """The model's configuration, in the fields of Triton's that apply."""
    model = service.repository.model(name)
    engine, _ = model.engine()
    return {
        "name": name,
        "platform": f"crossvit_{engine}",
        "backend": "crossvit",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": min(service.settings.max_images, model.capacity),
        "input": [
            {"name": IMAGE, "data_type": "TYPE_UINT8", "dims": [-1, -1, 3], "optional": True},
            {"name": ENCODED, "data_type": "TYPE_STRING", "dims": [], "optional": True},
        ],
        "output": [
            {"name": output, "data_type": "TYPE_FP32", "dims": [width]}
            for output, width in _output_widths(model).items()
        ],
        "instance_group": [{"kind": "KIND_CPU" if engine in (*ON_CPU, NULL_ENGINE) else "KIND_GPU", "count": 1}],
        "dynamic_batching": {"preferred_batch_size": [model.batch()]},
    }


@model_router.get("/stats", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def statistics(service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """What the model has done since it was first loaded; times in nanoseconds."""
    return {"model_stats": await _statistics(service, [service.repository.model(name).bundle.name])}


@model_router.post(
    "/infer",
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True)],
    response_class=Response,
    responses=_INFER_RESPONSES,
    openapi_extra=INFER_REQUEST,
)
async def infer(request: Request, service: ServiceDep, name: ModelName) -> Response:
    """The logits, or with `classification` the best classes, and `embedding` if it is named, for images in a tensor."""
    deadline = service.deadline(request)
    header_bytes = json_bytes(request)
    model = service.model(request, name)
    with model.in_use(), service.body_limits.open_body(request) as body:
        model.check(caller=caller_id(request))
        work = _infer(request, service, model, await body.whole(), header_bytes, deadline)
        inference, outputs, request.state.stages = await run_while_connected(request, work)
    # In a thread: the JSON for many images is megabytes, and writing it would block the event loop.
    accepted = request.headers.get("Accept-Encoding", "")
    return await asyncio.to_thread(_response, accepted, inference, model, name, outputs)


async def _infer_directly(request: Request) -> Response:
    """What FastAPI does for `infer`, in the same order."""
    service: Service = request.app.state.service
    name = request.path_params["name"]
    if "version" in request.path_params:
        await service.authorize(request, AccessLevel.KEY)
        await _check_version(name, request.path_params["version"])
    await service.authorize(request, AccessLevel.KEY, rate_limited=True)
    return await infer(request, service, name)


_MODEL_PATH = "/v2/models/{name}"
DIRECT_ROUTES = [
    DirectRoute(f"{_MODEL_PATH}/infer", _infer_directly),
    DirectRoute(f"{_MODEL_PATH}/versions/{{version}}/infer", _infer_directly),
]


@router.post(
    "/repository/index",
    dependencies=_KEY_REQUIRED,
    responses=_INDEX_RESPONSES,
    openapi_extra=optional_body(IndexRequest),
)
async def index(request: Request, service: ServiceDep) -> list[IndexEntry]:
    """Every known model, served or not; with `ready` only those that are ready."""
    query = await _repository_request(request, service, IndexRequest)
    return [
        IndexEntry(name=entry.name, version=MODEL_VERSION, state=entry.state, reason=entry.fault)
        for entry in service.repository.entries
        if entry.state == "READY" or not query.ready
    ]


@router.post(
    "/repository/models/{name}/load",
    dependencies=_ADMIN_REQUIRED,
    responses=_LOAD_RESPONSES,
    openapi_extra=optional_body(LoadRequest),
)
async def load(request: Request, service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """Serve the bundle as it is on disk now. An older model is served until the new one has passed its self-test."""
    if (await _repository_request(request, service, LoadRequest)).parameters:
        raise LoadFailed("parameters are not supported: the bundle defines the model")
    await service.group.load(name)
    return {}


@router.post("/repository/models/{name}/unload", dependencies=_ADMIN_REQUIRED, responses=_UNLOAD_RESPONSES)
async def unload(service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """Stop serving the model. Its accepted requests are finished, then its memory is freed."""
    await service.group.unload(name)
    return {}


async def _statistics(service: Service, names: Sequence[str]) -> list[dict[str, Any]]:
    totals = await service.group.totals()
    return [model_statistics(name, MODEL_VERSION, totals[name]) for name in names]


async def _infer(
    request: Request, service: Service, model: ServedModel, body: bytes, json_bytes: int | None, deadline: float
) -> tuple[InferenceRequest, NamedOutputs, Stages]:
    """The parsed request without its tensors, the outputs of all images, and the stages of the last one.

    The first error ends them all.
    """
    caller = caller_id(request)
    with model.room(caller=caller):  # parsing the body costs as much as an image
        async with until_deadline(deadline):
            inference, tensor = await service.decoders.inference(
                body, json_bytes=json_bytes, max_images=service.settings.max_images, deadline=deadline, caller=caller
            )
    try:
        for output in inference.outputs:
            check_output(output, list(_output_widths(model)))
        if isinstance(tensor, PixelBlock):
            resolution, count = pixel_resolution(model, tensor.shape[1:]), tensor.shape[0]
        else:
            resolution, count = _requested_resolution(model, inference), len(tensor)
        await service.charge(request, count)
        images = _Images(tensor, resolution, deadline, caller)
        found = await together(ask(model, images) for ask in _asked(inference))
        outputs, stages = zip(*found, strict=True)
        return inference, {name: values for found in outputs for name, values in found.items()}, max(stages, key=_end)
    finally:
        if isinstance(tensor, PixelBlock):
            tensor.release()


@dataclass(frozen=True)
class _Images:
    """The images of a request."""

    tensor: PixelBlock | list[bytes]
    resolution: int
    deadline: float
    caller: str


def _asked(inference: InferenceRequest) -> list[Callable[[ServedModel, _Images], Coroutine[Any, Any, _Found]]]:
    """What is to be asked: the graph that classifies, the inspection graph, or both."""
    names = [output.name for output in inference.outputs]
    classifies = not names or set(names) & set(OUTPUTS)
    return [*([_logits] if classifies else []), *([_embeddings] if EMBEDDING in names else [])]


async def _logits(model: ServedModel, images: _Images) -> _Found:
    if isinstance(images.tensor, PixelBlock):
        answers = await model.classify_pixels(images.tensor, images.resolution, images.deadline, caller=images.caller)
    else:
        answers = await model.classify_all(images.tensor, images.resolution, images.deadline, caller=images.caller)
    outputs = np.stack([answer.outputs for answer in answers], axis=1)
    return dict(zip(OUTPUTS, outputs, strict=True)), max((answer.stages for answer in answers), key=_end)


async def _embeddings(model: ServedModel, images: _Images) -> _Found:
    inspect = model.inspection
    if isinstance(images.tensor, PixelBlock):
        answers = await inspect.embed_pixels(images.tensor, images.resolution, images.deadline, caller=images.caller)
    else:
        answers = await inspect.embed(images.tensor, images.resolution, images.deadline, caller=images.caller)
    embeddings = np.stack([np.concatenate(answer.image.embeddings) for answer in answers])
    return {EMBEDDING: embeddings}, max((answer.stages for answer in answers), key=_end)


def _end(stages: Stages) -> float:
    """When the last of `stages` ended."""
    return stages[-1][1].end


def _output_widths(model: ServedModel) -> dict[str, int]:
    """The model's outputs, and how many numbers each has for an image."""
    widths = dict.fromkeys([*OUTPUTS], model.bundle.manifest.classes)
    variant = VARIANTS[model.bundle.manifest.variant]
    embedding = {EMBEDDING: sum(variant.dims)} if model.bundle.inspection is not None else {}
    return {**widths, **embedding}


async def _check_version(name: ModelName, version: ModelVersion) -> None:
    """Raise UnknownModel unless the model has this version."""
    if version != MODEL_VERSION:
        raise UnknownModel(f"{name[:60]!r} has no version {version[:20]!r}; its only version is {MODEL_VERSION!r}")


def json_bytes(request: Request) -> int | None:
    """The length of the body's JSON where binary tensors follow it."""
    length = request.headers.get(LENGTH_HEADER)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) < 12):
        raise BadInference(f"{LENGTH_HEADER} is not a number of bytes")
    return None if length is None else int(length)


def pixel_resolution(model: ServedModel, shape: tuple[int, ...]) -> int:
    """The resolution whose preprocessed images have this shape."""
    preprocessing = model.bundle.manifest.preprocessing
    resolutions = {(steps.crop, steps.crop, 3): resolution for resolution, steps in preprocessing.items()}
    if shape not in resolutions:
        sides = ", ".join(str(side) for side, _, _ in sorted(resolutions))
        raise BadInference(f"{IMAGE!r} of {shape[0]} pixels a side is not served; one of {sides}, or send {ENCODED!r}")
    return resolutions[shape]


def _requested_resolution(model: ServedModel, inference: InferenceRequest) -> int:
    value = inference.parameters.get("resolution", inference.inputs[0].parameters.get("resolution"))
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise BadInference("the parameter 'resolution' must be a whole number, such as 224")
    try:
        return model.resolution(value)
    except BadParameter as err:
        raise BadInference(str(err)) from err


def _response(
    accepted: str, inference: InferenceRequest, model: ServedModel, name: str, outputs: NamedOutputs
) -> Response:
    body, json_bytes = write_outputs(
        inference, name, MODEL_VERSION, outputs, [label.label for label in model.bundle.labels]
    )
    headers = {"Vary": "Accept-Encoding"}
    if json_bytes is not None:
        headers[LENGTH_HEADER] = str(json_bytes)
    encoding = _preferred_encoding(accepted)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        body = compress(body, encoding)
    return Response(body, headers=headers, media_type="application/json" if json_bytes is None else BINARY)


def _preferred_encoding(accepted: str) -> str | None:
    """The encoding in ENCODINGS that an Accept-Encoding header prefers; None for an unencoded response.

    Where the header forbids an unencoded response, the first encoding that it allows. Source: RFC 9110, 12.5.3.
    """
    qualities = {}
    for item in accepted.lower().split(","):
        name, _, parameter = item.partition(";")
        match = _QUALITY.fullmatch(parameter.strip())
        qualities[name.strip().removeprefix("x-")] = float(match[1]) if match else 1.0
    best = max(ENCODINGS, key=lambda encoding: qualities.get(encoding, 0.0))
    if qualities.get(best, 0.0) > 0:
        return best
    identity = qualities.get("identity", qualities.get("*", 1.0))
    allowed = [encoding for encoding in ENCODINGS if qualities.get(encoding, qualities.get("*", 0.0)) > 0]
    return allowed[0] if identity == 0 and allowed else None


async def _repository_request(request: Request, service: Service, kind: type[OipObject]) -> OipObject:
    """The JSON body of a request to the repository; stock clients may leave it empty."""
    with service.body_limits.open_body(request) as body:
        raw = await body.whole()
    if not raw.strip():
        return kind()
    try:
        return parse_oip(kind, raw)
    except BadInference as err:
        raise BadInference(f"the body must be JSON with {', '.join(kind.model_fields)}: {err}") from err


router.include_router(model_router, prefix="/models/{name}")
router.include_router(
    model_router,
    prefix="/models/{name}/versions/{version}",
    dependencies=[
        *_KEY_REQUIRED,
        Depends(_check_version),
    ],  # the key comes first: without it nobody learns which versions exist
)
