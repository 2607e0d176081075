"""What the Open Inference Protocol (V2) asks of the service, whatever carries its messages.

Source: the Open Inference Protocol; Triton's documents of its extensions for binary tensor data, classification, model
configuration, model repository and statistics. A model has one version, "1".
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.api.dependencies import Service
from app.api.oip_schemas import IndexEntry, ModelMetadata, ServerMetadata, TensorMetadata
from app.api.oip_statistics import model_statistics
from app.decoding.decoder_memory import PixelBlock
from app.decoding.oip_tensors import EMBEDDING, ENCODED, IMAGE, InferenceRequest, check_output
from app.engines.registry import NULL_ENGINE, ON_CPU
from app.errors import BadInference, BadParameter, LoadFailed, UnknownModel
from app.serving.served_model import ServedModel
from app.serving.together import together
from app.timing import Interval, until_deadline
from bundle.tensors import OUTPUTS
from model.spec import VARIANTS

MODEL_VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]

NamedOutputs = dict[str, NDArray[np.float32]]  # each (images, numbers)
Stages = list[tuple[str, Interval]]
_Found = tuple[NamedOutputs, Stages]


@dataclass(frozen=True)
class InferenceCaller:
    """Who asks for an inference.

    Attributes:
        name: whose share of the queue and of the decoders' time it takes, as `share_of` has it.
        deadline: when the answer must be there, on the clock of time.perf_counter.
        charge: counts the images of the request, as AccessControl.charge does.
    """

    name: str
    deadline: float
    charge: Callable[[int], Awaitable[None]]


def server_metadata() -> ServerMetadata:
    """The server's name, version and protocol extensions."""
    return ServerMetadata(name="crossvit", version=version("crossvit"), extensions=EXTENSIONS)


def model_metadata(service: Service, name: str) -> ModelMetadata:
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


def model_config(service: Service, name: str) -> dict[str, Any]:
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


async def statistics_of(service: Service, name: str = "") -> dict[str, Any]:
    """What a model has done since it was first loaded, or without a name all served models; times in nanoseconds."""
    if name:
        names = [service.repository.model(name).bundle.name]
    else:
        names = [entry.name for entry in service.repository.entries if entry.model is not None]
    totals = await service.group.totals()
    return {"model_stats": [model_statistics(found, MODEL_VERSION, totals[found]) for found in names]}


def repository_index(service: Service, *, ready: bool) -> list[IndexEntry]:
    """Every known model, served or not; with `ready` only those that are ready."""
    return [
        IndexEntry(name=entry.name, version=MODEL_VERSION, state=entry.state, reason=entry.fault)
        for entry in service.repository.entries
        if entry.state == "READY" or not ready
    ]


async def load_model(service: Service, name: str, parameters: Mapping[str, Any]) -> None:
    """Serve the bundle as it is on disk now. An older model is served until the new one has passed its self-test."""
    if parameters:
        raise LoadFailed("parameters are not supported: the bundle defines the model")
    await service.group.load(name)


def check_model_version(name: str, version: str) -> None:
    """Raise UnknownModel unless the model has this version."""
    if version != MODEL_VERSION:
        raise UnknownModel(f"{name[:60]!r} has no version {version[:20]!r}; its only version is {MODEL_VERSION!r}")


async def run_inference(
    service: Service, model: ServedModel, body: bytes, json_bytes: int | None, caller: InferenceCaller
) -> tuple[InferenceRequest, NamedOutputs, Stages]:
    """The parsed request without its tensors, the outputs of all images, and the stages of the last one.

    `body` and `json_bytes` are as app.decoding.oip_tensors.read_inputs takes them. The first error ends them all.
    """
    with model.room(caller=caller.name):  # parsing the body costs as much as an image
        async with until_deadline(caller.deadline):
            inference, tensor = await service.decoders.inference(
                body,
                json_bytes=json_bytes,
                max_images=service.settings.max_images,
                deadline=caller.deadline,
                caller=caller.name,
            )
    try:
        for output in inference.outputs:
            check_output(output, list(_output_widths(model)))
        if isinstance(tensor, PixelBlock):
            resolution, count = pixel_resolution(model, tensor.shape[1:]), tensor.shape[0]
        else:
            resolution, count = _requested_resolution(model, inference), len(tensor)
        await caller.charge(count)
        images = _Images(tensor, resolution, caller.deadline, caller.name)
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
