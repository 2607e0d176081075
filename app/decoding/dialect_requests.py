"""Requests of Hugging Face and of KServe's V1 protocol: from bytes to a request of the Open Inference Protocol.

So they are checked, decoded and counted as those are.

Source: @huggingface/tasks, image-classification and feature-extraction; KServe's data plane, V1.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from app.decoding.base64_text import BadBase64, decode_base64
from app.decoding.json_requests import parse_json_request
from app.decoding.oip_tensors import ENCODED, IMAGE, InferenceRequest, Input, Strict, read_tensor
from app.errors import BadInference, TooLarge

ScoreFunction = Literal["softmax", "sigmoid", "none"]
Dialect = Literal["huggingface", "kserve_v1"]

_Read = tuple[InferenceRequest, list[NDArray[np.uint8]]]

_HUGGING_FACE_JSON = '{"inputs": "base64 of an image file"}'
_V1_JSON = '{"instances": [{"b64": "base64 of an image file"}]}'
_MOST_NESTED_OBJECTS = 3  # around the base64 of an instance


class HuggingFaceParameters(Strict):
    """The parameters of both tasks; `normalize` is of feature extraction, where it is beside the inputs too."""

    top_k: Annotated[int | None, Field(ge=1, description="how many classes; 5 if left out")] = None
    function_to_apply: Annotated[
        ScoreFunction | None,
        Field(description="makes scores of the logits; the model's own activation if left out, none for the logits"),
    ] = None
    normalize: Annotated[bool | None, Field(description="divide the embedding by its length")] = None


class HuggingFaceRequest(Strict):
    """The JSON of a request for one image; members that are not named here are ignored."""

    inputs: Annotated[Any, Field(description="an image file in base64, or as a data URL")] = None
    parameters: HuggingFaceParameters = HuggingFaceParameters()
    normalize: Annotated[bool | None, Field(description="as in the parameters")] = None


class V1Parameters(Strict):
    """An extension of the protocol."""

    top_k: Annotated[int | None, Field(ge=1, description="how many classes; 5 if left out")] = None


class V1Request(Strict):
    """The JSON of a request of KServe's V1 protocol; members that are not named here are ignored."""

    instances: Annotated[
        Any,
        Field(
            description='images: each base64 of a file, as text or in an object such as {"b64": …} or '
            '{"image_bytes": {"b64": …}}; or each the pixels that the network sees, [side][side][3], 0 to 255'
        ),
    ] = None
    parameters: V1Parameters = V1Parameters()


def _read_hugging_face(body: bytes, max_images: int) -> _Read:
    request = parse_json_request(HuggingFaceRequest, body, _HUGGING_FACE_JSON)
    if isinstance(request.inputs, list):
        raise BadInference("inputs must be one image file in base64, not a list: send a request for each image")
    if request.inputs is None:
        raise BadInference(f"inputs is missing: {_HUGGING_FACE_JSON}")
    normalize = request.normalize if request.parameters.normalize is None else request.parameters.normalize
    parameters = request.parameters.model_copy(update={"normalize": normalize})
    return _files([request.inputs], ["inputs"], parameters, max_images)


def _read_v1(body: bytes, max_images: int) -> _Read:
    request = parse_json_request(V1Request, body, _V1_JSON)
    instances = request.instances
    if not isinstance(instances, list) or not instances:
        raise BadInference(f"instances must be a list of images: {_V1_JSON}")
    contents = [_innermost(instance) for instance in instances]
    if not any(isinstance(content, list) for content in contents):
        names = [f"instances[{index}]" for index in range(len(contents))]
        return _files(contents, names, request.parameters, max_images)
    if len(contents) > max_images:
        raise _too_many(len(contents), max_images)
    tensor = Input(name=IMAGE, shape=[len(contents), *_shape(contents[0])], datatype="UINT8", data=contents)
    parameters = request.parameters.model_dump(exclude_none=True)
    try:
        return read_tensor(InferenceRequest(inputs=[tensor], parameters=parameters), b"", max_images)
    except BadInference as err:
        raise BadInference(f"the pixels in instances: {err}") from err


_READERS: dict[Dialect, Callable[[bytes, int], _Read]] = {"huggingface": _read_hugging_face, "kserve_v1": _read_v1}


def read_dialect(dialect: Dialect, body: bytes, max_images: int) -> _Read:
    """The request in `body` as one of the Open Inference Protocol without its data, and its images.

    They are those of read_inputs. Raises BadInference, and TooLarge beyond `max_images`.
    """
    return _READERS[dialect](body, max_images)


def _files(
    contents: list[Any], names: list[str], parameters: HuggingFaceParameters | V1Parameters, max_images: int
) -> _Read:
    if len(contents) > max_images:
        raise _too_many(len(contents), max_images)
    files = []
    for content, name in zip(contents, names, strict=True):
        try:
            files.append(np.frombuffer(decode_base64(content), np.uint8))
        except BadBase64 as err:
            raise BadInference(f"{name} must be an image file in base64: {err}") from err
    tensor = Input(name=ENCODED, shape=[len(files)], datatype="BYTES")
    return InferenceRequest(inputs=[tensor], parameters=parameters.model_dump(exclude_none=True)), files


def _innermost(instance: Any) -> Any:
    """What is in objects of one member each, whatever its name; an object with "b64" may have others."""
    for _ in range(_MOST_NESTED_OBJECTS):
        if isinstance(instance, dict) and "b64" in instance:
            return instance["b64"]
        if not isinstance(instance, dict) or len(instance) != 1:
            break
        (instance,) = instance.values()
    return instance


def _shape(pixels: Any) -> list[int]:
    """The lengths of the lists in `pixels`, by the first of each."""
    lengths: list[int] = []
    while isinstance(pixels, list) and pixels and len(lengths) < 4:
        lengths.append(len(pixels))
        pixels = pixels[0]
    return lengths


def _too_many(images: int, max_images: int) -> TooLarge:
    return TooLarge(f"{images} images are over the limit of {max_images} in one request")
