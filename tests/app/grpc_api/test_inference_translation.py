import json
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from app.decoding.oip_tensors import InferenceRequest, read_inputs
from app.errors import BadInference
from app.grpc_api.inference_messages import INFER_REQUEST_MESSAGE
from app.grpc_api.inference_translation import LARGE_CONTENTS, binary_body, has_large_contents, response_message
from tests.support.grpc_ports import file_request, infer_request


def own(request: Any) -> Any:
    """The service's message of a stock client's."""
    return INFER_REQUEST_MESSAGE.FromString(request.SerializeToString())


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
