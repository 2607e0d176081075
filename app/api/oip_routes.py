"""The Open Inference Protocol (V2) over REST: its routes, and the HTTP of what app.api.oip_operations does.

Source: the Open Inference Protocol's REST specification, and the REST parts of Triton's extensions of it.
"""

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from app.api.auth import AccessLevel
from app.api.dependencies import Service, ServiceDep, caller_id, require_access, run_while_connected
from app.api.direct_routes import DirectRoute
from app.api.oip_operations import (
    MODEL_VERSION,
    InferenceCaller,
    NamedOutputs,
    check_model_version,
    load_model,
    model_config,
    model_metadata,
    repository_index,
    run_inference,
    server_metadata,
    statistics_of,
)
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
    optional_body,
)
from app.api.problems import ACCESS_ERRORS, error_responses
from app.decoding.oip_tensors import (
    BINARY,
    ENCODINGS,
    LENGTH_HEADER,
    InferenceRequest,
    OipObject,
    compress,
    parse_oip,
    write_outputs,
)
from app.errors import (
    BadBody,
    BadImage,
    BadInference,
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

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], redirect_slashes=False)
model_router = APIRouter(redirect_slashes=False)  # the routes of one model

ModelName = Annotated[str, Path(description="the name of a model")]
ModelVersion = Annotated[str, Path(description="its version, always '1'", examples=[MODEL_VERSION])]

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
    return server_metadata()


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
    return await statistics_of(service)


@model_router.get("", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def metadata(service: ServiceDep, name: ModelName) -> ModelMetadata:
    """The inputs and outputs of a model. A request sends one of the inputs."""
    return model_metadata(service, name)


@model_router.get("/ready", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def model_ready(service: ServiceDep, name: ModelName) -> ModelReady:
    """The model is ready."""
    await service.group.check_ready(name)
    return ModelReady(name=name)


@model_router.get("/config", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def config(service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """The model's configuration, in the fields of Triton's that apply."""
    return model_config(service, name)


@model_router.get("/stats", dependencies=_KEY_REQUIRED, responses=_MODEL_RESPONSES)
async def statistics(service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """What the model has done since it was first loaded; times in nanoseconds."""
    return await statistics_of(service, name)


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
        caller = InferenceCaller(caller_id(request), deadline, lambda images: service.charge(request, images))
        model.check(caller=caller.name)
        work = run_inference(service, model, await body.whole(), header_bytes, caller)
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
    return repository_index(service, ready=query.ready)


@router.post(
    "/repository/models/{name}/load",
    dependencies=_ADMIN_REQUIRED,
    responses=_LOAD_RESPONSES,
    openapi_extra=optional_body(LoadRequest),
)
async def load(request: Request, service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """Serve the bundle as it is on disk now. An older model is served until the new one has passed its self-test."""
    await load_model(service, name, (await _repository_request(request, service, LoadRequest)).parameters)
    return {}


@router.post("/repository/models/{name}/unload", dependencies=_ADMIN_REQUIRED, responses=_UNLOAD_RESPONSES)
async def unload(service: ServiceDep, name: ModelName) -> dict[str, Any]:
    """Stop serving the model. Its accepted requests are finished, then its memory is freed."""
    await service.group.unload(name)
    return {}


async def _check_version(name: ModelName, version: ModelVersion) -> None:
    """Raise UnknownModel unless the model has this version."""
    check_model_version(name, version)


def json_bytes(request: Request) -> int | None:
    """The length of the body's JSON where binary tensors follow it."""
    length = request.headers.get(LENGTH_HEADER)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) < 12):
        raise BadInference(f"{LENGTH_HEADER} is not a number of bytes")
    return None if length is None else int(length)


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
