"""A ModelInferRequest as a body with binary tensors, which decoders read, and outputs as a ModelInferResponse."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from app.api.oip_operations import MODEL_VERSION, NamedOutputs
from app.decoding.oip_tensors import (
    InferenceRequest,
    describe_output,
    raw_content,
    requested_outputs,
)
from app.errors import BadInference
from app.grpc_api.inference_messages import INFER_RESPONSE_MESSAGE
from app.grpc_api.message_bounds import SplitRequest, TypedContents

LARGE_CONTENTS = 1 << 18  # bytes of numbers, from which their conversion is too long for the event loop
_SIZE, _SHARED_MEMORY = "binary_data_size", "shared_memory_region"


def binary_body(split: SplitRequest) -> tuple[bytes, int]:
    """The ModelInferRequest as the REST protocol's binary extension has it, and the length of its JSON.

    Only what the decoder cannot see is checked here: BadInference for tensors that are in two places or in none.
    """
    request = split.request
    inputs: list[dict[str, Any]] = []
    tensors: list[bytes | memoryview] = []
    raw = iter(split.raw)
    for tensor, contents in zip(request.inputs, split.contents, strict=True):
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = _parameters(tensor.parameters, without=_SIZE)
        if _SHARED_MEMORY not in parameters:
            name = tensor.name[:60]
            parts = [_next_raw(name, contents, raw)] if split.raw else _typed(name, contents or TypedContents())
            parameters[_SIZE] = sum(map(len, parts))
            tensors.extend(parts)
        inputs.append(described | {"parameters": parameters})
    if next(raw, None) is not None:
        raise BadInference(f"raw_input_contents has {len(split.raw)} tensors for {len(inputs)} inputs")
    outputs = [{"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs]
    head: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "parameters": _parameters(request.parameters)}
    if request.id:
        head["id"] = request.id
    described_bytes = to_json(head)
    return b"".join([described_bytes, *tensors]), len(described_bytes)


def has_large_contents(split: SplitRequest) -> bool:
    """Whether the numbers in the request take long to convert."""
    numbers = (part for contents in split.contents if contents for part in contents.numbers)
    return sum(map(len, numbers)) > LARGE_CONTENTS


def response_message(request: InferenceRequest, model: str, outputs: NamedOutputs, labels: Sequence[str] = ()) -> Any:
    """The ModelInferResponse with the outputs that `request` names, which are among `outputs`.

    `labels` are those of the classes, for outputs with the parameter `classification`.
    """
    response = INFER_RESPONSE_MESSAGE(model_name=model, model_version=MODEL_VERSION, id=request.id or "")
    for requested in requested_outputs(request, outputs):
        described, content = describe_output(requested, outputs[requested.name], labels)
        response.outputs.add(**described)
        response.raw_output_contents.append(raw_content(content))
    return response


def _next_raw(name: str, contents: TypedContents | None, raw: Iterator[memoryview]) -> memoryview:
    """The next of `raw`, which is the content of the input `name`."""
    if contents is not None:
        raise BadInference(f"the input {name!r} has both contents and raw_input_contents")
    content = next(raw, None)
    if content is None:
        raise BadInference(f"raw_input_contents has no tensor for the input {name!r}")
    return content


def _typed(name: str, contents: TypedContents) -> Sequence[bytes | memoryview]:
    """The binary data, in parts, of the input `name`, whose elements are in `contents`."""
    if contents.numbers and contents.files:
        raise BadInference(f"the input {name!r} has both uint_contents and bytes_contents")
    if contents.files:
        return [part for file in contents.files for part in (len(file).to_bytes(4, "little"), file)]
    encoded = np.frombuffer(b"".join(contents.numbers), np.uint8)
    if not len(encoded):
        raise BadInference(f"the input {name!r} has no data: send raw_input_contents, or contents")
    return [_small_numbers(name, encoded)]


def _small_numbers(name: str, encoded: NDArray[np.uint8]) -> bytes:
    """The numbers from 0 to 255 in varints, a byte each.

    One below 128 is its byte. A greater one is its byte, whose highest bit says that more follows, and the byte 1.
    """
    more = encoded > 0x7F
    if not more.any():
        return encoded.tobytes()
    second = np.concatenate([[False], more[:-1]])
    if more[-1] or (encoded[second] != 1).any():
        raise BadInference(f"the input {name!r} must have whole numbers from 0 to 255")
    numbers: bytes = encoded[~second].tobytes()
    return numbers


def _parameters(parameters: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """The values of InferParameter messages; those without a value are left out."""
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None and name != without:
            found[name] = getattr(parameter, choice)
    return found
