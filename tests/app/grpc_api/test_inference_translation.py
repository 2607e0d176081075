import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from app.decoding.oip_tensors import InferenceRequest, read_inputs
from app.errors import BadInference
from app.grpc_api.inference_translation import LARGE_CONTENTS, binary_body, has_large_contents, response_message
from app.grpc_api.message_bounds import SplitRequest, split_request
from tests.support.grpc_ports import file_request, infer_request


def own(request: Any) -> SplitRequest:
    """What the service makes of a stock client's message."""
    return split_request(request.SerializeToString(), max_images=8)


def read(request: Any) -> tuple[InferenceRequest, list[Any]]:
    body, json_bytes = binary_body(own(request))
    return read_inputs(body, json_bytes=json_bytes, max_images=8)


def test_pixels_files_names_and_parameters_reach_the_decoder() -> None:
    request = infer_request(count=2, id="a")
    request.parameters["resolution"].int64_param = 384
    request.parameters["sequence_start"].bool_param = True
    request.parameters["without a value"].SetInParent()
    request.outputs.add(name="logits").parameters["classification"].int64_param = 3
    inference, (pixels,) = read(request)
    assert pixels.shape == (2, 224, 224, 3)
    assert (inference.id, inference.parameters) == ("a", {"resolution": 384, "sequence_start": True})
    (output,) = inference.outputs
    assert (output.name, output.parameters) == ("logits", {"classification": 3})
    inference, files = read(file_request([b"one", b"", b"three"]))
    assert [bytes(file) for file in files] == [b"one", b"", b"three"]
    assert inference.id is None


def test_raw_elements_are_as_typed_ones() -> None:
    request = file_request([])
    request.inputs[0].ClearField("contents")
    request.inputs[0].shape[0] = 2
    request.raw_input_contents.append(b"\x01\0\0\0a\x02\0\0\0bc")
    _, files = read(request)
    assert [bytes(file) for file in files] == [b"a", b"bc"]


def test_a_size_that_the_client_states_is_not_believed() -> None:
    request = infer_request()
    request.inputs[0].parameters["binary_data_size"].int64_param = 5
    body, json_bytes = binary_body(own(request))
    assert json.loads(body[:json_bytes])["inputs"][0]["parameters"] == {"binary_data_size": 150528}


def test_a_tensor_in_two_places_or_in_none_is_refused() -> None:
    both = infer_request()
    both.inputs[0].contents.uint_contents.append(1)
    with pytest.raises(BadInference, match="has both contents and raw_input_contents"):
        binary_body(own(both))
    mixed = file_request([b"a"])
    mixed.inputs[0].contents.uint_contents.append(1)
    with pytest.raises(BadInference, match="both uint_contents and bytes_contents"):
        binary_body(own(mixed))
    with pytest.raises(BadInference, match="has no data"):
        binary_body(own(file_request([])))
    missing = infer_request()
    missing.inputs.add(name="image")
    with pytest.raises(BadInference, match="raw_input_contents has no tensor for the input 'image'"):
        binary_body(own(missing))


def test_many_numbers_are_noticed() -> None:
    contents = service_pb2.InferTensorContents(uint_contents=[7] * (LARGE_CONTENTS + 1))
    request = service_pb2.ModelInferRequest(inputs=[{"name": "image", "contents": contents}])
    assert has_large_contents(own(request))
    assert not has_large_contents(own(infer_request()))


def typed_request(numbers: list[int]) -> Any:
    contents = service_pb2.InferTensorContents(uint_contents=numbers)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [len(numbers)], "contents": contents}
    return service_pb2.ModelInferRequest(inputs=[tensor])


@pytest.mark.parametrize("numbers", [[0, 127], [*range(256), 0, 255, 255]])
def test_typed_numbers_become_bytes(numbers: list[int]) -> None:
    body, json_bytes = binary_body(own(typed_request(numbers)))
    assert body[json_bytes:] == bytes(numbers)


@pytest.mark.parametrize("numbers", [[256], [1, 16384], [300, 1], [255, 2**32 - 1]])
def test_typed_numbers_over_255_are_refused(numbers: list[int]) -> None:
    with pytest.raises(BadInference, match="the input 'image' must have whole numbers from 0 to 255"):
        binary_body(own(typed_request(numbers)))


@pytest.mark.exhaustive
def test_typed_numbers_take_little_more_memory_than_their_message() -> None:
    message = typed_request([7, 200] * 1_000_000).SerializeToString()
    tracemalloc.start()
    binary_body(split_request(message, max_images=8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * len(message)


def test_outputs_are_packed_in_the_order_in_which_they_are_named() -> None:
    outputs = {name: np.arange(6, dtype=np.float32).reshape(2, 3) + at for at, name in enumerate(("logits", "other"))}
    named = InferenceRequest.model_validate(
        {
            "id": "x",
            "inputs": [{"name": "image", "shape": [2], "datatype": "UINT8"}],
            "outputs": [{"name": "other"}, {"name": "logits", "parameters": {"classification": 1}}],
        }
    )
    response = response_message(named, "network", outputs, ["cat", "dog", "fish"])
    assert (response.model_name, response.model_version, response.id) == ("network", "1", "x")
    assert [(out.name, out.datatype, list(out.shape)) for out in response.outputs] == [
        ("other", "FP32", [2, 3]),
        ("logits", "BYTES", [2, 1]),
    ]
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [1, 2, 3, 4, 5, 6]
    assert response.raw_output_contents[1] == b"".join(
        len(text).to_bytes(4, "little") + text for text in (b"2.000000:2:fish", b"5.000000:2:fish")
    )
