"""A ModelInferRequest as a body with binary tensors, which decoders read, and outputs as a ModelInferResponse."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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

LARGE_CONTENTS = 1 << 16  # numbers, from which their conversion is too long for the event loop
_SIZE, _SHARED_MEMORY = "binary_data_size", "shared_memory_region"


def binary_body(request: Any) -> tuple[bytes, int]:
    """The ModelInferRequest as the REST protocol's binary extension has it, and the length of its JSON.

    Only what the decoder cannot see is checked here: BadInference for tensors that are in two places or in none.
    """
    inputs, tensors = [], []
    raw = iter(request.raw_input_contents)
    for tensor in request.inputs:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = _parameters(tensor.parameters, without=_SIZE)
        if _SHARED_MEMORY not in parameters:
            content = _typed(tensor) if not request.raw_input_contents else _next_raw(tensor, raw)
            parameters[_SIZE] = len(content)
            tensors.append(content)
        inputs.append(described | {"parameters": parameters})
    if next(raw, None) is not None:
        raise BadInference(f"raw_input_contents has {len(request.raw_input_contents)} tensors for {len(inputs)} inputs")
    outputs = [{"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs]
    head: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "parameters": _parameters(request.parameters)}
    if request.id:
        head["id"] = request.id
    described_bytes = to_json(head)
    return b"".join([described_bytes, *tensors]), len(described_bytes)


def has_large_contents(request: Any) -> bool:
    """Whether the numbers in the request take long to convert."""
    return any(len(tensor.contents.uint_contents) > LARGE_CONTENTS for tensor in request.inputs)


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


def _next_raw(tensor: Any, raw: Iterable[bytes]) -> bytes:
    """The next of `raw`, which is the content of `tensor`."""
    if tensor.HasField("contents"):
        raise BadInference(f"the input {tensor.name[:60]!r} has both contents and raw_input_contents")
    content = next(iter(raw), None)
    if content is None:
        raise BadInference(f"raw_input_contents has no tensor for the input {tensor.name[:60]!r}")
    return content


def _typed(tensor: Any) -> bytes:
    """The binary data of a tensor whose elements are in `contents`."""
    numbers, files = tensor.contents.uint_contents, tensor.contents.bytes_contents
    if numbers and files:
        raise BadInference(f"the input {tensor.name[:60]!r} has both uint_contents and bytes_contents")
    if not numbers and not files:
        raise BadInference(f"the input {tensor.name[:60]!r} has no data: send raw_input_contents, or contents")
    if files:
        return raw_content(list(files))
    try:
        return bytes(numbers)
    except ValueError as err:
        raise BadInference(f"the input {tensor.name[:60]!r} must have whole numbers from 0 to 255") from err


def _parameters(parameters: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """The values of InferParameter messages; those without a value are left out."""
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None and name != without:
            found[name] = getattr(parameter, choice)
    return found
