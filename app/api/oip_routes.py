"""The Open Inference Protocol (V2) over REST, with the extensions of Triton that app/decoding/oip_tensors.py names.

Source: the Open Inference Protocol's REST specification; Triton's documents of its extensions for binary tensor data,
classification, model configuration, model repository and statistics. A model has one version, "1".
"""

import asyncio
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.api.auth import Level
from app.api.dependencies import Service, ServiceDep, caller, sharer, while_connected
from app.api.problems import responses
from app.api.routes import TIMEOUT, check_ready
from app.decoding.oip_tensors import (
    BINARY,
    ENCODED,
    ENCODINGS,
    IMAGE,
    LENGTH_HEADER,
    InferenceRequest,
    OipObject,
    Strict,
    check_output,
    compress,
    parse_oip,
    without_nulls,
    write_outputs,
)
from app.engines.registry import ON_CPU
from app.errors import (
    BadBody,
    BadImage,
    BadInference,
    BadParameter,
    EngineFailed,
    Forbidden,
    LoadFailed,
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
from app.serving.served_model import ModelAnswer, ServedModel
from app.telemetry.metrics import Total, Totals
from app.timing import until_deadline
from bundle.tensors import OUTPUTS

VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], redirect_slashes=False)
model_router = APIRouter(redirect_slashes=False)  # of one model

ModelName = Annotated[str, Path(description="the name of a model")]
Version = Annotated[str, Path(description="its version; there is '1'", examples=[VERSION])]

_WEIGHT = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)")

_CLOSED = (Unauthorized, Forbidden)
_BODY = (BadInference, BadBody, SlowClient, TooLarge, UnknownCoding)
_KNOWN = responses(*_CLOSED, UnknownModel, NotReady, inference=True)
_READY = responses(*_CLOSED, NotReady, inference=True)
_INFERRING = responses(
    *_BODY,
    *_CLOSED,
    UnknownModel,
    QueueFull,
    EngineFailed,
    NotReady,
    TooLate,
    NotAnImage,
    BadImage,
    inference=True,
)
_LOADING = responses(*_CLOSED, *_BODY, UnknownModel, LoadFailed, inference=True)
_UNLOADING = responses(*_CLOSED, UnknownModel, inference=True)
_INDEX = responses(*_CLOSED, *_BODY, inference=True)
_key = [caller(Level.KEY)]
_admin = [caller(Level.ADMIN)]


class Live(BaseModel):
    live: bool = True


class Ready(BaseModel):
    ready: bool = True


class ModelReady(Ready):
    name: str


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class LoadRequest(Strict):
    parameters: Annotated[
        dict[str, Any],
        BeforeValidator(without_nulls),
        Field(default_factory=dict, description="none is taken", json_schema_extra={"maxProperties": 0}),
    ]


class IndexRequest(Strict):
    ready: bool = False


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str
    reason: str


@router.get("", dependencies=_key, responses=responses(*_CLOSED, inference=True))
async def server() -> ServerMetadata:
    """What this server is."""
    return ServerMetadata(name="crossvit", version=version("crossvit"), extensions=EXTENSIONS)


@router.get("/health/live", responses=responses(*_CLOSED, inference=True))
async def live(request: Request, here: ServiceDep) -> Live:
    """The process answers."""
    await here.admit(request, Level[here.settings.health_access.upper()])
    return Live()


@router.get("/health/ready", responses=_READY)
async def ready(request: Request, here: ServiceDep) -> Ready:
    """The default model can be asked."""
    await here.admit(request, Level[here.settings.health_access.upper()])
    await check_ready(here)
    return Ready()


@router.get("/models/stats", dependencies=_key, responses=responses(*_CLOSED, inference=True))
async def all_statistics(here: ServiceDep) -> dict[str, Any]:
    """The statistics of all models that are served."""
    served = [entry.model for entry in here.repository.entries if entry.model is not None]
    return {"model_stats": [_statistics(model) for model in served]}


@model_router.get("", dependencies=_key, responses=_KNOWN)
async def metadata(here: ServiceDep, name: ModelName) -> ModelMetadata:
    """The inputs and outputs of a model. A request has one of the inputs."""
    model = here.repository.model(name)
    classes = model.bundle.manifest.classes
    return ModelMetadata(
        name=name,
        versions=[VERSION],
        platform=f"crossvit_{model.engine()[0]}",
        inputs=[
            TensorMetadata(name=IMAGE, datatype="UINT8", shape=[-1, -1, -1, 3]),
            TensorMetadata(name=ENCODED, datatype="BYTES", shape=[-1]),
        ],
        outputs=[TensorMetadata(name=output, datatype="FP32", shape=[-1, classes]) for output in OUTPUTS],
    )


@model_router.get("/ready", dependencies=_key, responses=_KNOWN)
async def model_ready(here: ServiceDep, name: ModelName) -> ModelReady:
    """The model can be asked."""
    await check_ready(here, name)
    return ModelReady(name=name)


@model_router.get("/config", dependencies=_key, responses=_KNOWN)
async def config(here: ServiceDep, name: ModelName) -> dict[str, Any]:
    """The model's configuration, as far as Triton's has names for it."""
    model = here.repository.model(name)
    classes = model.bundle.manifest.classes
    engine, _ = model.engine()
    return {
        "name": name,
        "platform": f"crossvit_{engine}",
        "backend": "crossvit",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": min(here.settings.max_images, model.capacity),
        "input": [
            {"name": IMAGE, "data_type": "TYPE_UINT8", "dims": [-1, -1, 3], "optional": True},
            {"name": ENCODED, "data_type": "TYPE_STRING", "dims": [], "optional": True},
        ],
        "output": [{"name": output, "data_type": "TYPE_FP32", "dims": [classes]} for output in OUTPUTS],
        "instance_group": [{"kind": "KIND_CPU" if engine in ON_CPU else "KIND_GPU", "count": 1}],
        "dynamic_batching": {"preferred_batch_size": [model.batch()]},
    }


@model_router.get("/stats", dependencies=_key, responses=_KNOWN)
async def statistics(here: ServiceDep, name: ModelName) -> dict[str, Any]:
    """What the model has done since it was first loaded; times in nanoseconds."""
    return {"model_stats": [_statistics(here.repository.model(name))]}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema without references, which do not reach out of an OpenAPI operation."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}
    return [_inlined(item, definitions) for item in schema] if isinstance(schema, list) else schema


def _may_have(kind: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body that may be empty."""
    return {"requestBody": {"content": {"application/json": {"schema": kind.model_json_schema()}}}}


_REQUEST = InferenceRequest.model_json_schema()
_INFER = {
    "parameters": [
        TIMEOUT,
        {
            "name": LENGTH_HEADER,
            "in": "header",
            "description": "length of the JSON where binary tensors follow it; 0 for an image file without any JSON",
            "schema": {"type": "integer", "minimum": 0},
        },
        {
            "name": "Content-Encoding",
            "in": "header",
            "description": "how the body is compressed; a body that plainly is JSON or an image is taken as it is",
            "schema": {"type": "string", "enum": [*ENCODINGS, "identity"]},
        },
    ],
    "requestBody": {
        "required": True,
        "description": "one input, `image` (UINT8) or `encoded` (BYTES: image files; in JSON as base64 strings)",
        "content": {
            "application/json": {"schema": _inlined(_REQUEST, _REQUEST["$defs"])},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_RESPONSE = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"enum": list(OUTPUTS)},
                    "datatype": {"enum": ["FP32", "BYTES"]},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "array", "description": "left out where it follows the JSON in binary"},
                    "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
                },
            },
        },
    },
}
_INFERRED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {"schema": _RESPONSE},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


@model_router.post(
    "/infer",
    dependencies=[caller(Level.KEY, limited=True)],
    response_class=Response,
    responses=_INFERRED | _INFERRING,
    openapi_extra=_INFER,
)
async def infer(request: Request, here: ServiceDep, name: ModelName) -> Response:
    """The logits, or with `classification` the best classes, for the images in one tensor."""
    deadline = here.deadline(request)
    json_bytes = _json_bytes(request)
    model = here.repository.model(name)
    with model.in_use(), here.bodies.holding(request) as body:
        model.check(caller=sharer(request))
        work = _infer(request, here, model, await body.whole(), json_bytes, deadline)
        asked, answers = await while_connected(request, work)
    slowest = max(answers, key=lambda answer: answer.inference.end)
    request.state.stages += slowest.stages
    # Away from the event loop: many images make megabytes of JSON.
    return await asyncio.to_thread(_response, request.headers.get("Accept-Encoding", ""), asked, model, name, answers)


@router.post("/repository/index", dependencies=_key, responses=_INDEX, openapi_extra=_may_have(IndexRequest))
async def index(request: Request, here: ServiceDep) -> list[IndexEntry]:
    """Every model that is known, served or not; with `ready` those that are ready."""
    asked = await _asked(request, here, IndexRequest)
    return [
        IndexEntry(name=entry.name, version=VERSION, state=entry.state, reason=entry.fault)
        for entry in here.repository.entries
        if entry.state == "READY" or not asked.ready
    ]


@router.post(
    "/repository/models/{name}/load", dependencies=_admin, responses=_LOADING, openapi_extra=_may_have(LoadRequest)
)
async def load(request: Request, here: ServiceDep, name: ModelName) -> dict[str, Any]:
    """Serve the bundle as it is on disk now. A model that is served already goes on until the new one is proven."""
    if (await _asked(request, here, LoadRequest)).parameters:
        raise LoadFailed("a model is what its bundle says: parameters are not taken")
    await here.repository.load(name)
    return {}


@router.post("/repository/models/{name}/unload", dependencies=_admin, responses=_UNLOADING)
async def unload(here: ServiceDep, name: ModelName) -> dict[str, Any]:
    """Serve the model no more; what it was given is finished, then its memory is free."""
    await here.repository.unload(name)
    return {}


async def _infer(
    request: Request, here: Service, model: ServedModel, body: bytes, json_bytes: int | None, deadline: float
) -> tuple[InferenceRequest, Sequence[ModelAnswer]]:
    """The request without its data, and an answer for each image; all, or the first error."""
    sender = sharer(request)
    with model.room(caller=sender):  # reading it costs as much as an image
        async with until_deadline(deadline):
            asked, tensors = await here.decoders.inference(
                body, json_bytes=json_bytes, max_images=here.settings.max_images, deadline=deadline, caller=sender
            )
    for output in asked.outputs:
        check_output(output, OUTPUTS)
    if asked.inputs[0].name == IMAGE:
        resolution = _resolution_of(model, tensors[0].shape[1:])
        here.charge(request, len(tensors[0]))
        return asked, await model.classify_pixels(tensors[0], resolution, deadline, caller=sender)
    resolution = _asked_resolution(model, asked)
    here.charge(request, len(tensors))
    bodies = [file.tobytes() for file in tensors]
    return asked, await model.classify_all(bodies, resolution, deadline, caller=sender)


async def _known_version(name: ModelName, version: Version) -> None:
    """UnknownModel unless the model has this version."""
    if version != VERSION:
        raise UnknownModel(f"{name[:60]!r} has no version {version[:20]!r}; there is {VERSION!r}")


def _json_bytes(request: Request) -> int | None:
    """The length of the body's JSON where binary tensors follow it."""
    length = request.headers.get(LENGTH_HEADER)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) < 12):
        raise BadInference(f"{LENGTH_HEADER} is not a number of bytes")
    return None if length is None else int(length)


def _resolution_of(model: ServedModel, shape: tuple[int, ...]) -> int:
    """The resolution whose images the network sees in this shape."""
    offered = {(steps.crop, steps.crop, 3): asked for asked, steps in model.bundle.manifest.preprocessing.items()}
    if shape not in offered:
        sides = ", ".join(str(side) for side, _, _ in sorted(offered))
        raise BadInference(f"{IMAGE!r} of {shape[0]} pixels a side is not served; one of {sides}, or send {ENCODED!r}")
    return offered[shape]


def _asked_resolution(model: ServedModel, asked: InferenceRequest) -> int:
    value = asked.parameters.get("resolution", asked.inputs[0].parameters.get("resolution"))
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise BadInference("the parameter 'resolution' is a whole number, such as 224")
    try:
        return model.resolution(value)
    except BadParameter as err:
        raise BadInference(str(err)) from err


def _response(
    accepted: str, asked: InferenceRequest, model: ServedModel, name: str, answers: Sequence[ModelAnswer]
) -> Response:
    outputs = dict(zip(OUTPUTS, np.stack([answer.outputs for answer in answers], axis=1), strict=True))
    body, json_bytes = write_outputs(asked, name, VERSION, outputs, [label.label for label in model.bundle.labels])
    headers = {"Vary": "Accept-Encoding"}
    if json_bytes is not None:
        headers[LENGTH_HEADER] = str(json_bytes)
    encoding = _welcome(accepted)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        body = compress(body, encoding)
    return Response(body, headers=headers, media_type="application/json" if json_bytes is None else BINARY)


def _welcome(accepted: str) -> str | None:
    """The encoding that an Accept-Encoding header likes best, if it names one that there is, or forbids to have none.

    Source: RFC 9110, 12.5.3.
    """
    weights = {}
    for item in accepted.lower().split(","):
        name, _, weight = item.partition(";")
        match = _WEIGHT.fullmatch(weight.strip())
        weights[name.strip().removeprefix("x-")] = float(match[1]) if match else 1.0
    best = max(ENCODINGS, key=lambda encoding: weights.get(encoding, 0.0))
    if weights.get(best, 0.0) > 0:
        return best
    plain = weights.get("identity", weights.get("*", 1.0))
    others = [encoding for encoding in ENCODINGS if weights.get(encoding, weights.get("*", 0.0)) > 0]
    return others[0] if plain == 0 and others else None


async def _asked(request: Request, here: Service, kind: type[OipObject]) -> OipObject:
    """The JSON of a request to the repository, which stock clients may leave empty."""
    with here.bodies.holding(request) as body:
        raw = await body.whole()
    if not raw.strip():
        return kind()
    try:
        return parse_oip(kind, raw)
    except BadInference as err:
        raise BadInference(f"the body is not JSON with {', '.join(kind.model_fields)}: {err}") from err


def _statistics(model: ServedModel) -> dict[str, Any]:
    totals: Totals = model.metrics.totals
    return {
        "name": model.bundle.name,
        "version": VERSION,
        "last_inference": int(1000 * totals.last),
        "inference_count": totals.answered.count,
        "execution_count": sum(total.count for total in totals.batches.values()),
        "inference_stats": {
            "success": _total(totals.answered),
            "fail": _total(totals.failed),
            "queue": _total(totals.queue),
            "compute_input": _total(totals.decode),
            "compute_infer": _total(totals.inference),
            "compute_output": _total(Total()),
            "cache_hit": _total(Total()),
            "cache_miss": _total(Total()),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _total(Total()),
                "compute_infer": _total(total),
                "compute_output": _total(Total()),
            }
            for size, total in sorted(totals.batches.items())
        ],
    }


def _total(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": int(1e9 * total.seconds)}


router.include_router(model_router, prefix="/models/{name}")
router.include_router(
    model_router,
    prefix="/models/{name}/versions/{version}",
    dependencies=[*_key, Depends(_known_version)],  # who may not ask is not told what there is
)
