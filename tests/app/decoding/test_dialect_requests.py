"""Requests in other services' dialects become requests of the Open Inference Protocol."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.dialect_requests import Dialect, read_dialect
from app.decoding.oip_tensors import InferenceRequest
from app.errors import BadInference, TooLarge

FILE = b"\xff\xd8\xff and so on"
TEXT = base64.b64encode(FILE).decode()
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just(TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "image", "x"]), inner),
    max_leaves=12,
)


def read(dialect: Dialect, **request: Any) -> tuple[InferenceRequest, list[bytes]]:
    found, images = read_dialect(dialect, json.dumps(request).encode(), 4)
    return found, [image.tobytes() for image in images]


def test_parameters_cross_and_unknown_members_are_ignored() -> None:
    parameters = {"top_k": 3, "function_to_apply": None, "threshold": 0.5}
    request, files = read("huggingface", inputs=TEXT, parameters=parameters, normalize=True, options={"x": 1})
    assert files == [FILE]
    assert request.parameters == {"top_k": 3, "normalize": True}
    assert (request.inputs[0].name, request.inputs[0].shape, request.inputs[0].data) == ("encoded", [1], None)


@pytest.mark.parametrize("instance", [TEXT, {"b64": TEXT}, {"a": {"b": {"b64": TEXT}}}, {"b64": TEXT, "name": "x"}])
def test_files_are_found_in_objects(instance: Any) -> None:
    request, files = read("kserve_v1", instances=[instance, TEXT])
    assert files == [FILE, FILE]
    assert request.inputs[0].shape == [2]


def test_pixels_are_an_image_tensor() -> None:
    image = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]
    request, images = read("kserve_v1", instances=[image, {"image": image}])
    assert (request.inputs[0].name, request.inputs[0].shape) == ("image", [2, 2, 2, 3])
    assert images == [bytes(range(1, 13)) * 2]


def test_more_images_than_one_request_may_have_are_too_large() -> None:
    with pytest.raises(TooLarge, match="5 images are over the limit of 4"):
        read("kserve_v1", instances=[TEXT] * 5)


@pytest.mark.parametrize("dialect", ["huggingface", "kserve_v1"])
@given(value=ANY_JSON)
@settings(max_examples=150, deadline=None)
def test_any_json_is_read_or_refused(dialect: Dialect, value: Any) -> None:
    for request in (
        {"inputs": value},
        {"instances": value},
        {"instances": [value]},
        {"inputs": TEXT, "parameters": value},
    ):
        try:
            found, images = read_dialect(dialect, json.dumps(request).encode(), 4)
        except (BadInference, TooLarge):
            continue
        assert 1 <= len(images) <= 4
        assert found.inputs[0].data is None
