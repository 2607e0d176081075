"""Tensors of the Open Inference Protocol: from a request's bytes to arrays, and from arrays to a response's bytes.

Source: the Open Inference Protocol (V2), REST, and Triton's extensions for binary tensor data, classification and HTTP
compression. A request has one input: `image`, exactly the pixels that the network sees, or `encoded`, image files.
A raw binary request, one image file without JSON, requests all outputs in binary.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json, to_json

from app.decoding.base64_text import BadBase64, decode_base64
from app.decoding.content_kind import is_form, looks_like_image, mistaken
from app.errors import BadInference, TooLarge
from bundle.tensors import INPUT
from model.files.formats import HEAD_BYTES
from model.pydantic_errors import describe_error, error_location

IMAGE, ENCODED = INPUT, "encoded"  # names of inputs: the pixels of the graph's input, or image files
EMBEDDING = "embedding"  # an output beside those of the graph, where it is requested by name
LENGTH_HEADER = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"

_ELEMENT = struct.Struct("<I")
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_IS_FORM = "it is a multipart form: send that to POST /classify, and here the bytes of one file only"
_BINARY_SIZE_KEY = b'"binary_data_size"'
ENCODINGS = tuple(_WINDOW_BITS)  # of answers; app.api.content_coding has those of requests
# The results of json.detect_encoding. Python imports each codec when it is first used.
CHARSETS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")

OipObject = TypeVar("OipObject", bound=BaseModel)

# Names and parameters cross to the service and back to the client, so they are short.
Text = Annotated[str, Field(max_length=1000)]


def without_nulls(value: Any) -> Any:
    """An object without its null members: many clients write null instead of leaving a member out."""
    return {key: member for key, member in value.items() if member is not None} if isinstance(value, dict) else value


def _nullable(schema: dict[str, Any]) -> None:
    """Allow null for the optional members in the JSON schema of an object."""
    for name, member in schema.get("properties", {}).items():
        if name not in schema.get("required", []) and "type" in member:
            member["type"] = [member["type"], "null"]
        values = member.get("additionalProperties")
        if isinstance(values, dict) and "anyOf" in values:
            values["anyOf"].append({"type": "null"})


Parameters = Annotated[dict[Text, Text | int | float | bool], BeforeValidator(without_nulls), Field(max_length=32)]


class Strict(BaseModel):
    """An object in a request's JSON; a null member counts as left out."""

    model_config = ConfigDict(strict=True, json_schema_extra=_nullable)

    _nulls = model_validator(mode="before")(without_nulls)


class Input(Strict):
    """A tensor: `image`, UINT8 [batch, side, side, 3], or `encoded`, BYTES [batch] (in JSON as base64)."""

    name: Text
    shape: Annotated[list[Annotated[int, Field(ge=0, le=1 << 31)]], Field(max_length=8)]
    datatype: Text
    parameters: Parameters = {}
    data: Any = None


class Output(Strict):
    """A requested output; its parameters are `binary_data` and `classification`, a number of classes."""

    name: Text
    parameters: Parameters = {}


class InferenceRequest(Strict):
    """The JSON of a request. `resolution` is a parameter for `encoded` inputs."""

    id: Text | None = None
    parameters: Parameters = {}
    inputs: Annotated[list[Input], Field(min_length=1, max_length=8)]
    outputs: Annotated[list[Output], Field(max_length=8)] = []


def read_inputs(
    body: bytes, *, json_bytes: int | None, max_images: int
) -> tuple[InferenceRequest, list[NDArray[np.uint8]]]:
    """The request in `body` without its data, and its images.

    The images of an `image` input are one array (batch, side, side, 3), those of `encoded` an array of bytes each.
    Raises BadInference, and TooLarge beyond `max_images`.

    Args:
        body: the request's bytes.
        json_bytes: the length of the JSON if binary tensors follow it, 0 for a raw binary request, None for JSON only.
        max_images: the most images.
    """
    if json_bytes is not None and json_bytes > len(body):
        raise BadInference(f"{LENGTH_HEADER} is {json_bytes}, but the body has {len(body)} bytes")
    if json_bytes == 0:
        if is_form(body[:HEAD_BYTES]):
            raise BadInference(f"the request is not an image file: {_IS_FORM}")
        tensor = Input(name=ENCODED, shape=[1], datatype="BYTES")
        request = InferenceRequest(inputs=[tensor], parameters={"binary_data_output": True})
        return request, [np.frombuffer(body, np.uint8)]
    request = parse_oip(InferenceRequest, body[:json_bytes], whole=json_bytes is None)
    return read_tensor(request, b"" if json_bytes is None else body[json_bytes:], max_images)


def read_tensor(
    request: InferenceRequest, binary: bytes, max_images: int
) -> tuple[InferenceRequest, list[NDArray[np.uint8]]]:
    """`request` without its data, and its images; `binary` follows its JSON. Returns and raises as read_inputs."""
    _check(request)
    tensor = request.inputs[0]
    raw = _raw(tensor, binary)
    if tensor.name == IMAGE:
        images = [_pixels(tensor, raw, max_images)]
    elif tensor.name == ENCODED:
        images = _files(tensor, raw, max_images)
    else:
        raise BadInference(f"there is no input {tensor.name[:60]!r}; the inputs are {IMAGE!r} and {ENCODED!r}")
    tensor.data = None
    return request, images


def write_outputs(
    request: InferenceRequest, model: str, version: str, outputs: dict[str, NDArray[np.float32]], labels: Sequence[str]
) -> tuple[bytes, int | None]:
    """The response to `request`, and the length of its JSON if binary tensors follow it.

    `outputs` has the requested outputs, each (batch, numbers), or those that are sent if the request names none. Raises
    as check_output.
    """
    described = []
    binary = []
    all_binary = _flag(request.parameters, "binary_data_output")
    for requested in requested_outputs(request, outputs):
        check_output(requested, list(outputs))
        tensor, content = describe_output(requested, outputs[requested.name], labels)
        if _flag(requested.parameters, "binary_data", all_binary):
            raw = raw_content(content)
            described.append(tensor | {"parameters": {"binary_data_size": len(raw)}})
            binary.append(raw)
        elif isinstance(content, list):
            described.append(tensor | {"data": [item.decode() for item in content]})
        else:
            described.append(tensor | {"data": np.frombuffer(content, np.float32).tolist()})
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        answer["id"] = request.id
    head = to_json(answer)
    return b"".join([head, *binary]), len(head) if binary else None


def requested_outputs(request: InferenceRequest, outputs: Iterable[str]) -> list[Output]:
    """The outputs that `request` names, or else all of `outputs`."""
    return request.outputs or [Output(name=name) for name in outputs]


def raw_content(content: bytes | list[bytes]) -> bytes:
    """The binary data of a tensor: its bytes, or the elements of a BYTES tensor with their lengths."""
    return content if isinstance(content, bytes) else b"".join(map(_element, content))


def check_output(requested: Output, names: Sequence[str]) -> None:
    """BadInference if the requested output is not one of `names`, or its parameters are invalid."""
    if requested.name not in names:
        raise BadInference(f"there is no output {requested.name[:60]!r}; one of {', '.join(names)}")
    _flag(requested.parameters, "binary_data")
    count = requested.parameters.get("classification", 0)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise BadInference("the parameter 'classification' must be a number of classes, 1 or more")
    if count and requested.name == EMBEDDING:
        raise BadInference(f"the output {EMBEDDING!r} has no classes: leave out its parameter 'classification'")


def compress(body: bytes, encoding: str) -> bytes:
    """`body` in one of ENCODINGS."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return packer.compress(body) + packer.flush()


def parse_oip(kind: type[OipObject], body: bytes, *, whole: bool = True) -> OipObject:
    """The JSON in `body`, in one of CHARSETS, as an object of `kind`; `whole` tells whether it is the whole request.

    Raises BadInference.
    """
    try:
        # RFC 8259, 8.1 allows only UTF-8 and lets a byte order mark be ignored; PowerShell and .NET write the others.
        content = body.decode(json.detect_encoding(body))
        value = from_json(content.removeprefix("\ufeff"), allow_inf_nan=False)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            raise BadInference("the request is a JSON string with JSON in it; send the object itself")
        if kind is InferenceRequest and isinstance(value, dict) and "instances" in value and "inputs" not in value:
            raise BadInference(
                "the request has 'instances', of version 1 of the protocol; this is version 2: 'inputs'. "
                "POST /v1/models/{model}:predict takes 'instances'"
            )
        return kind.model_validate(value)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        written = "; write it without a decimal point" if _is_whole(first["input"]) else ""
        raise BadInference(f"{error_location(first, 'the request')} {describe_error(first)}{written}") from err
    except UnicodeDecodeError as err:
        raise BadInference(f"the request is not JSON: {_instead(body, whole) or 'it is not UTF-8'}") from err
    except ValueError as err:
        raise BadInference(f"the request is not JSON: {_instead(body, whole) or err}"[:300]) from err


def _is_whole(value: Any) -> bool:
    """Whether `value` is a whole number written with a decimal point."""
    return isinstance(value, float) and value.is_integer()


def _instead(body: bytes, whole: bool) -> str | None:
    """What the client sent instead of JSON, with advice; None if that cannot be told."""
    if is_form(body[:HEAD_BYTES]):
        return _IS_FORM
    if whole and _BINARY_SIZE_KEY in body:
        return f"binary data follows it, so the header {LENGTH_HEADER} must give the length of the JSON"
    if looks_like_image(body):
        return f"it is an image file: send it with {LENGTH_HEADER}: 0, or to POST /classify"
    kind = None if body.lstrip()[:1] in (b"{", b"[", b'"') else mistaken(body, body=True)
    return kind and f"it is {kind}"


def _check(request: InferenceRequest) -> None:
    """BadInference for errors that can be found without the model's outputs."""
    if len(request.inputs) > 1:
        raise BadInference(f"a request has one input, {IMAGE!r} or {ENCODED!r}, not {len(request.inputs)}")
    if len({output.name for output in request.outputs}) < len(request.outputs):
        raise BadInference("an output is requested more than once")
    tensors: list[Input | Output] = [*request.inputs, *request.outputs]
    for tensor in tensors:
        if "shared_memory_region" in tensor.parameters:
            raise BadInference(f"{tensor.name[:60]!r} cannot be in shared memory; send it in the request or response")
    _flag(request.parameters, "binary_data_output")


def _flag(parameters: Parameters, name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadInference(f"the parameter {name!r} must be true or false")
    return value


def _raw(tensor: Input, binary: bytes) -> bytes | None:
    """The tensor's binary data, all bytes after the JSON; None if the data is in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if binary:
            raise BadInference(f"{len(binary)} bytes follow the JSON, but no input has a binary_data_size")
        if tensor.data is None:
            raise BadInference(f"the input {tensor.name[:60]!r} has no data")
        return None
    if not isinstance(size, int) or isinstance(size, bool):
        raise BadInference(f"the parameter 'binary_data_size' must be a number of bytes, not {str(size)[:20]!r}")
    if tensor.data is not None:
        raise BadInference(f"the input {tensor.name[:60]!r} has both data in the JSON and a binary_data_size")
    if size != len(binary):
        raise BadInference(f"binary_data_size is {size}, but {len(binary)} bytes follow the JSON")
    return binary


def _pixels(tensor: Input, raw: bytes | None, max_images: int) -> NDArray[np.uint8]:
    shape = tensor.shape
    if tensor.datatype != "UINT8" or len(shape) != 4 or shape[1] != shape[2] or not shape[1] or shape[3] != 3:
        raise BadInference(f"{IMAGE!r} must be UINT8 [batch, side, side, 3], not {tensor.datatype[:20]} {shape}")
    _check_batch(shape[0], max_images)
    if raw is None:
        raw = _octets(tensor.data, shape)
    count = math.prod(shape)
    if len(raw) != count:
        raise BadInference(f"the shape {shape} has {count} elements, but the data has {len(raw)}")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _octets(rows: Any, shape: list[int]) -> bytes:
    """The numbers in `rows`: one flat list, or nested lists of `shape`."""
    if not isinstance(rows, list):
        raise BadInference(f"the data of {IMAGE!r} must be a list of numbers")
    if rows and isinstance(rows[0], list):
        for length in shape[1:]:
            if not all(isinstance(row, list) and len(row) == length for row in rows):
                raise BadInference(f"the lists in {IMAGE!r} do not have its shape {shape}")
            rows = list(chain.from_iterable(rows))
    if rows and all(map(_is_whole, rows)):
        raise BadInference(f"{IMAGE!r} must have whole numbers; write them without a decimal point")
    # NumPy would turn 1.5 and "1" into 1, and make every element as long as the longest string.
    if not set(map(type, rows)) <= {int} or (rows and (min(rows) < 0 or max(rows) > 255)):
        raise BadInference(f"{IMAGE!r} must have whole numbers from 0 to 255")
    return bytes(rows)


def _files(tensor: Input, raw: bytes | None, max_images: int) -> list[NDArray[np.uint8]]:
    shape = tensor.shape
    if tensor.datatype != "BYTES" or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise BadInference(f"{ENCODED!r} must be BYTES [batch], not {tensor.datatype[:20]} {shape}")
    _check_batch(shape[0], max_images)
    files = _base64(tensor.data) if raw is None else _elements(raw)
    if len(files) != shape[0]:
        raise BadInference(f"the shape {shape} has {shape[0]} elements, but the data has {len(files)}")
    return [np.frombuffer(file, np.uint8) for file in files]


def _check_batch(batch: int, max_images: int) -> None:
    if batch < 1:
        raise BadInference("the batch is empty")
    if batch > max_images:
        raise TooLarge(f"{batch} images are over the limit of {max_images} in one request")


def _element(content: bytes) -> bytes:
    return _ELEMENT.pack(len(content)) + content


def _elements(raw: bytes) -> list[bytes]:
    files = []
    position = 0
    while position < len(raw):
        start = position + _ELEMENT.size
        if start > len(raw):
            raise BadInference("the BYTES data ends within an element's length")
        (length,) = _ELEMENT.unpack_from(raw, position)
        position = start + length
        if position > len(raw):
            raise BadInference("the BYTES data ends within an element")
        files.append(raw[start:position])
    return files


def _base64(data: Any) -> list[bytes]:
    items = data if isinstance(data, list) else [data]
    items = [item for row in items for item in (row if isinstance(row, list) else [row])]
    try:
        return [decode_base64(item) for item in items]
    except BadBase64 as err:
        raise BadInference(f"in JSON, {ENCODED!r} must have image files as base64 strings: {err}") from err


def describe_output(
    requested: Output, values: NDArray[np.float32], labels: Sequence[str]
) -> tuple[dict[str, Any], bytes | list[bytes]]:
    """The description of a tensor, and its content: its bytes, or the elements of a BYTES tensor."""
    count = int(requested.parameters.get("classification", 0))
    if not count:
        shape = list(values.shape)
        return {"name": requested.name, "datatype": "FP32", "shape": shape}, np.ascontiguousarray(values).tobytes()
    classes = [
        f"{row[index]:f}:{index}:{labels[index]}".encode()
        for row in values
        for index in np.argsort(-row, kind="stable")[:count]
    ]
    shape = [len(values), min(count, values.shape[1])]
    return {"name": requested.name, "datatype": "BYTES", "shape": shape}, classes
