import base64
import gzip
import json
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.decoding.oip_tensors import (
    ENCODED,
    IMAGE,
    InferenceRequest,
    Output,
    check_output,
    compress,
    read_inputs,
    write_outputs,
)
from app.errors import BadInference, TooLarge
from bundle.bundle_errors import ExplainedError

PIXELS = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
FILES = [b"one", b"", b"\x00\xff three"]
LOGITS = {
    "logits": np.array([[0.5, -1, 3.25], [1, 2, 0]], np.float32),
    "logits_small": np.array([[7, 7, 7], [1e-7, 0, 1e7]], np.float32),
}
LABELS = ["cat", "dog: brown", "größer"]


def opened(
    body: bytes, *, json_bytes: int | None = None, max_images: int = 4
) -> tuple[InferenceRequest, list[NDArray[np.uint8]]]:
    return read_inputs(body, json_bytes=json_bytes, max_images=max_images)


def image_input(data: Any = None, **changes: Any) -> dict[str, Any]:
    tensor = {"name": IMAGE, "datatype": "UINT8", "shape": [2, 2, 2, 3], "data": data} | changes
    return {name: value for name, value in tensor.items() if value is not None}


def encoded_input(data: Any = None, **changes: Any) -> dict[str, Any]:
    return image_input(data, **({"name": ENCODED, "datatype": "BYTES", "shape": [3]} | changes))


def as_json(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs} | more).encode()


def elements(files: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def with_binary(tensor: dict[str, Any], raw: bytes, **more: Any) -> tuple[bytes, int]:
    head = as_json(tensor | {"parameters": {"binary_data_size": len(raw)}}, **more)
    return head + raw, len(head)


def asking(*outputs: dict[str, Any], **more: Any) -> InferenceRequest:
    return InferenceRequest.model_validate({"inputs": [image_input()], "outputs": list(outputs)} | more)


@pytest.mark.parametrize("data", [PIXELS.ravel().tolist(), PIXELS.tolist()], ids=["flat", "nested"])
def test_an_image_in_json_is_read(data: list[Any]) -> None:
    request, (pixels,) = opened(as_json(image_input(data), id="7", parameters={"resolution": 224}))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, PIXELS)
    assert (request.id, request.parameters) == ("7", {"resolution": 224})
    assert request.inputs[0].data is None


def test_an_image_in_binary_is_read() -> None:
    body, json_bytes = with_binary(image_input(), PIXELS.tobytes())
    assert np.array_equal(opened(body, json_bytes=json_bytes)[1][0], PIXELS)


@pytest.mark.parametrize("shape", [[3], [3, 1]])
@pytest.mark.parametrize("rows", [False, True])
def test_files_in_json_are_base64(shape: list[int], rows: bool) -> None:
    data = [base64.b64encode(file).decode() for file in FILES]
    tensor = encoded_input([[item] for item in data] if rows else data, shape=shape)
    assert [file.tobytes() for file in opened(as_json(tensor))[1]] == FILES


def test_one_file_in_json_needs_no_list() -> None:
    assert opened(as_json(encoded_input("b25l", shape=[1])))[1][0].tobytes() == b"one"


def test_files_in_binary_have_their_lengths_before_them() -> None:
    body, json_bytes = with_binary(encoded_input(), elements(FILES))
    assert [file.tobytes() for file in opened(body, json_bytes=json_bytes)[1]] == FILES


def test_a_raw_binary_request_is_one_file_and_is_answered_in_binary() -> None:
    request, (file,) = opened(b"\xff\xd8 no JSON", json_bytes=0)
    assert file.tobytes() == b"\xff\xd8 no JSON"
    assert request.parameters == {"binary_data_output": True}


def test_a_form_is_no_raw_binary_request() -> None:
    with pytest.raises(BadInference, match="is not an image file: it is a multipart form"):
        opened(b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n', json_bytes=0)


def test_compression_is_what_the_standard_library_undoes() -> None:
    body = bytes(range(256)) * 100
    assert gzip.decompress(compress(body, "gzip")) == body
    assert zlib.decompress(compress(body, "deflate")) == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request is not JSON: EOF"),
        (b"hello", "the request is not JSON"),
        (b"\xff\xfe", "the request is not JSON"),
        (b'{"id": "\xfc"}', "the request is not JSON: it is not UTF-8"),
        (
            b'{"instances": [{"image": "b25l"}]}',
            "has 'instances', of version 1 of the protocol; this is version 2: 'inputs'",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n',
            "a multipart form: send that to POST /classify",
        ),
        (
            with_binary(image_input(), b"\xff" * 24)[0],
            "the header Inference-Header-Content-Length must give the length",
        ),
        (with_binary(image_input(), b"a" * 24)[0], "the header Inference-Header-Content-Length must give the length"),
        (
            as_json(image_input(parameters={"binary_data_size": "24"})),
            "'binary_data_size' must be a number of bytes, not '24'",
        ),
        (
            as_json(image_input([0], shape=[1.0, 2, 2, 3])),
            "shape.0 is not a whole number; write it without a decimal point",
        ),
        (as_json(image_input([1.0, 2.0])), "'image' must have whole numbers; write them without a decimal point"),
        (b'{"inputs": NaN}', "the request is not JSON"),
        (b'{"id": "\\ud800", "inputs": []}', "the request is not JSON"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "the request is not JSON"),
        (b"[" * 50_000, "the request is not JSON: recursion limit exceeded"),
        (b'{"inputs": [{"data": ' + b"[" * 50_000, "recursion limit exceeded"),
        (b"[]", "the request is not an object"),
        (b"{}", "inputs is missing"),
        (as_json(), "inputs has fewer than 1"),
        (as_json(*[image_input([])] * 9), "inputs has more than 8"),
        (as_json({"name": IMAGE}), "inputs.0.shape is missing"),
        (as_json(image_input([], shape=[-1])), "inputs.0.shape.0 is less than 0"),
        (as_json(image_input([], shape=[1 << 40])), "inputs.0.shape.0 is more than 2147483648"),
        (as_json(image_input([], shape=["2", 2, 2, 3])), "inputs.0.shape.0 is not a whole number"),
        (as_json(image_input([], shape=[1] * 9)), "inputs.0.shape has more than 8"),
        (as_json(image_input([]), id=7), "id is not a string"),
        (as_json(image_input([]), id="x" * 1001), "id is longer than 1000 characters"),
        (as_json(image_input([]), parameters={"a": []}), "parameters.a"),
        (as_json(image_input([]), parameters={str(n): n for n in range(33)}), "parameters has more than 32"),
        (as_json(image_input([]), outputs=[{}]), "outputs.0.name is missing"),
        (as_json(image_input([]), parameters={"binary_data_output": 1}), "'binary_data_output' must be true or false"),
        (as_json(image_input([]), outputs=[{"name": "a"}] * 2), "an output is requested more than once"),
        (as_json(image_input([]), encoded_input([])), "a request has one input, 'image' or 'encoded', not 2"),
        (as_json(image_input([], name="x" * 99)), f"there is no input '{'x' * 60}'; the inputs are 'image' and"),
        (as_json(image_input([], parameters={"shared_memory_region": "r"})), "'image' cannot be in shared memory"),
        (
            as_json(image_input([]), outputs=[{"name": "logits", "parameters": {"shared_memory_region": "r"}}]),
            "'logits' cannot be in shared memory",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_an_invalid_request_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(BadInference) as refused:
        opened(body)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "more",
    [
        {"id": None, "parameters": None, "outputs": None},
        {"parameters": {"resolution": None, "binary_data_output": None, "sequence_id": None}},
        {"outputs": [{"name": "logits", "parameters": None}]},
        {"outputs": [{"name": "logits", "parameters": {"classification": None, "binary_data": None}}]},
    ],
)
def test_null_counts_as_left_out(more: dict[str, Any]) -> None:
    tensor = encoded_input(["b25l"], shape=[1]) | {"parameters": None}
    request, (file,) = opened(as_json(tensor, **more))
    assert file.tobytes() == b"one"
    assert (request.id, request.parameters) == (None, {})
    assert [output.parameters for output in request.outputs] == [{}] * len(request.outputs)
    body, json_bytes = with_binary(image_input() | {"data": None}, PIXELS.tobytes(), **more)
    assert np.array_equal(opened(body, json_bytes=json_bytes)[1][0], PIXELS)


@pytest.mark.parametrize("charset", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_json_is_read_in_any_unicode_with_a_mark_or_without(charset: str) -> None:
    head = as_json(encoded_input(["b25l"], shape=[1]), id="x").decode().encode(charset)
    assert opened(head)[1][0].tobytes() == b"one"
    assert opened(head, json_bytes=len(head))[0].id == "x"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps(as_json().decode()).encode(), "a JSON string with JSON in it"),
        (b"\xff\xd8\xff\xe0 and so on", "an image file: send it with Inference-Header-Content-Length: 0"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n',
            "it is a multipart form: send that to POST /classify",
        ),
        (b"inputs=1&outputs=2", "it is an urlencoded form"),
        (b"\x1f\x8b\x08\x00", "it is gzip data"),
    ],
)
def test_what_was_sent_instead_of_json_is_named(body: bytes, message: str) -> None:
    with pytest.raises(BadInference) as refused:
        opened(body)
    assert message in str(refused.value)


def test_a_long_key_does_not_make_a_long_message() -> None:
    with pytest.raises(BadInference) as refused:
        opened(as_json(image_input([]), parameters={"k" * 50_000: 1}))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (image_input(), "the input 'image' has no data"),
        (image_input([], datatype="FP32"), "must be UINT8 [batch, side, side, 3], not FP32 [2, 2, 2, 3]"),
        (image_input([], shape=[2, 2, 3]), "must be UINT8"),
        (image_input([], shape=[2, 3, 2, 3]), "must be UINT8"),
        (image_input([], shape=[2, 2, 2, 4]), "must be UINT8"),
        (image_input([], shape=[2, 0, 0, 3]), "must be UINT8"),
        (image_input([], shape=[0, 2, 2, 3]), "the batch is empty"),
        (image_input("AAAA"), "the data of 'image' must be a list of numbers"),
        (image_input({"b64": ""}), "the data of 'image' must be a list of numbers"),
        (image_input([]), "the shape [2, 2, 2, 3] has 24 elements, but the data has 0"),
        (image_input([0] * 23), "the data has 23"),
        (image_input([[[[0] * 3] * 2] * 2]), "the data has 12"),
        (image_input([[0] * 12] * 2), "the lists in 'image' do not have its shape"),
        (image_input([PIXELS[0].tolist(), [[[0] * 3] * 2] * 3]), "do not have its shape"),
        (image_input([PIXELS[0].tolist(), 0]), "do not have its shape"),
        (image_input([[[[[0]] * 3] * 2] * 2] * 2), "must have whole numbers from 0 to 255"),
        (image_input([0] * 23 + [256]), "must have whole numbers from 0 to 255"),
        (image_input([0] * 23 + [-1]), "must have whole numbers from 0 to 255"),
        (image_input([0] * 23 + [10**400]), "must have whole numbers from 0 to 255"),
        (image_input([0] * 23 + [1.5]), "must have whole numbers from 0 to 255"),
        (image_input([0] * 23 + [True]), "must have whole numbers from 0 to 255"),
        (image_input([0] * 23 + ["1"]), "must have whole numbers from 0 to 255"),
        (image_input([0] * 23 + [None]), "must have whole numbers from 0 to 255"),
        (encoded_input(), "the input 'encoded' has no data"),
        (encoded_input([], datatype="UINT8"), "'encoded' must be BYTES [batch], not UINT8 [3]"),
        (encoded_input([], shape=[3, 2]), "must be BYTES [batch]"),
        (encoded_input([], shape=[]), "must be BYTES [batch]"),
        (encoded_input([], shape=[0]), "the batch is empty"),
        (encoded_input(["", ""]), "the shape [3] has 3 elements, but the data has 2"),
        (encoded_input(["", "", "*"]), "'encoded' must have image files as base64 strings"),
        (encoded_input(["", "", "é"]), "as base64 strings"),
        (encoded_input(["", "", "abcde"]), "as base64 strings"),
        (encoded_input(["", "", 1]), "as base64 strings"),
        (encoded_input([[["", "", ""]]]), "as base64 strings"),
        (encoded_input({"b64": ""}), "as base64 strings"),
    ],
)
def test_an_invalid_tensor_in_json_is_refused(tensor: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInference) as refused:
        opened(as_json(tensor))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("tensor", "raw", "message"),
    [
        (image_input(), bytes(23), "the shape [2, 2, 2, 3] has 24 elements, but the data has 23"),
        (image_input(), b"", "the data has 0"),
        (image_input([0] * 24), bytes(24), "has both data in the JSON and a binary_data_size"),
        (encoded_input(), b"\x01", "the BYTES data ends within an element's length"),
        (encoded_input(), elements([b"a", b"b"]) + b"\x01\x00\x00", "within an element's length"),
        (encoded_input(), struct.pack("<I", 5) + b"four", "the BYTES data ends within an element"),
        (encoded_input(), struct.pack("<I", 0xFFFFFFFF) + b"x", "the BYTES data ends within an element"),
        (encoded_input(), elements([b"a", b"b"]), "the shape [3] has 3 elements, but the data has 2"),
        (encoded_input(), elements([b"a"] * 4), "the data has 4"),
    ],
)
def test_an_invalid_tensor_in_binary_data_is_refused(tensor: dict[str, Any], raw: bytes, message: str) -> None:
    body, json_bytes = with_binary(tensor, raw)
    with pytest.raises(BadInference) as refused:
        opened(body, json_bytes=json_bytes)
    assert message in str(refused.value)


@pytest.mark.parametrize("size", [True, "24", 24.5])
def test_an_invalid_binary_data_size_is_refused(size: Any) -> None:
    head = as_json(image_input(parameters={"binary_data_size": size}))
    with pytest.raises(BadInference, match=f"'binary_data_size' must be a number of bytes, not '{size}'"):
        opened(head + PIXELS.tobytes(), json_bytes=len(head))


@pytest.mark.parametrize("size", [0, 23, 25, -24])
def test_a_binary_data_size_that_is_not_what_follows_is_refused(size: Any) -> None:
    head = as_json(image_input(parameters={"binary_data_size": size}))
    with pytest.raises(BadInference, match=f"binary_data_size is {size}, but 24 bytes follow the JSON"):
        opened(head + PIXELS.tobytes(), json_bytes=len(head))


def test_binary_data_that_no_input_has_is_refused() -> None:
    head = as_json(image_input(PIXELS.tolist()))
    with pytest.raises(BadInference, match="5 bytes follow the JSON, but no input has a binary_data_size"):
        opened(head + bytes(5), json_bytes=len(head))
    with pytest.raises(BadInference, match="binary_data_size is 24, but 0 bytes follow"):
        opened(as_json(image_input(parameters={"binary_data_size": 24})))


@pytest.mark.parametrize("wrong_by", [-3, 3, 10_000])
def test_a_header_length_that_is_not_that_of_the_json_is_refused(wrong_by: int) -> None:
    body, json_bytes = with_binary(image_input(), PIXELS.tobytes())
    with pytest.raises(BadInference):
        opened(body, json_bytes=json_bytes + wrong_by)


@pytest.mark.parametrize("tensor", [image_input([], shape=[5, 2, 2, 3]), encoded_input([], shape=[5])])
def test_more_images_than_the_limit_are_refused(tensor: dict[str, Any]) -> None:
    with pytest.raises(TooLarge, match="5 images are over the limit of 4 in one request"):
        opened(as_json(tensor))


def test_a_long_string_among_numbers_takes_no_memory() -> None:
    """NumPy would make every element as long: gigabytes."""
    body = as_json(image_input(["x" * 30_000, *[0] * 20_000]))
    tracemalloc.start()
    try:
        with pytest.raises(BadInference):
            opened(body)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"0," * 4_000_000 + b"0]",
        b"[" * 199 + b"]" * 199,
        as_json(image_input([[]] * 2_000_000)),
        as_json(encoded_input([""] * 2_000_000)),
        b'{"id":"' + b"\\u0001" * 1_300_000 + b'"}',
        with_binary(encoded_input(), bytes(8_000_000))[0],
    ],
    ids=["numbers", "depth", "lists", "strings", "escapes", "elements"],
)
def test_the_largest_body_of_any_kind_is_refused(body: bytes) -> None:
    with pytest.raises(ExplainedError):
        opened(body, json_bytes=len(body) - 8_000_000 if body.endswith(bytes(9)) else None)


def test_a_request_without_outputs_is_answered_with_all_in_json() -> None:
    body, json_bytes = write_outputs(asking(id="a/b"), "tiny", "1", LOGITS, LABELS)
    assert json_bytes is None
    answer = json.loads(body)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "a/b")
    for output, (name, values) in zip(answer["outputs"], LOGITS.items(), strict=True):
        assert (output["name"], output["datatype"], output["shape"]) == (name, "FP32", [2, 3])
        assert np.array_equal(np.array(output["data"], np.float32).reshape(2, 3), values)


def test_without_an_id_there_is_none_in_the_answer() -> None:
    assert "id" not in json.loads(write_outputs(asking(), "tiny", "1", LOGITS, LABELS)[0])
    assert json.loads(write_outputs(asking(id=""), "tiny", "1", LOGITS, LABELS)[0])["id"] == ""


def test_outputs_come_in_the_order_and_the_form_that_was_asked_for() -> None:
    request = asking(
        {"name": "logits_small", "parameters": {"binary_data": True}},
        {"name": "logits", "parameters": {"binary_data": False}},
        parameters={"binary_data_output": True},
    )
    body, json_bytes = write_outputs(request, "tiny", "1", LOGITS, LABELS)
    assert json_bytes is not None
    small, logits = json.loads(body[:json_bytes])["outputs"]
    assert small == {
        "name": "logits_small",
        "datatype": "FP32",
        "shape": [2, 3],
        "parameters": {"binary_data_size": 24},
    }
    assert np.array_equal(np.frombuffer(body[json_bytes:], np.float32).reshape(2, 3), LOGITS["logits_small"])
    assert logits["data"] == LOGITS["logits"].ravel().tolist()


def test_binary_data_output_makes_all_outputs_binary() -> None:
    body, json_bytes = write_outputs(asking(parameters={"binary_data_output": True}), "tiny", "1", LOGITS, LABELS)
    assert json_bytes is not None
    assert body[json_bytes:] == LOGITS["logits"].tobytes() + LOGITS["logits_small"].tobytes()


@pytest.mark.parametrize("binary", [False, True])
def test_classification_gives_value_index_and_label_best_first(binary: bool) -> None:
    request = asking({"name": "logits", "parameters": {"classification": 2, "binary_data": binary}})
    body, json_bytes = write_outputs(request, "tiny", "1", LOGITS, LABELS)
    (output,) = json.loads(body[:json_bytes])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    expected = ["3.250000:2:größer", "0.500000:0:cat", "2.000000:1:dog: brown", "1.000000:0:cat"]
    if binary:
        assert body[json_bytes:] == elements([item.encode() for item in expected])
        assert output["parameters"]["binary_data_size"] == len(body[json_bytes:])
    else:
        assert output["data"] == expected


def test_more_classes_than_there_are_give_all_and_equal_ones_come_in_order() -> None:
    request = asking({"name": "logits", "parameters": {"classification": 10**30}})
    outputs = {"logits": np.tile(np.array([1, 2], np.float32), (1, 50))}
    (output,) = json.loads(write_outputs(request, "tiny", "1", outputs, 100 * ["x"])[0])["outputs"]
    assert output["shape"] == [1, 100]
    assert [int(item.split(":")[1]) for item in output["data"]] == [*range(1, 100, 2), *range(0, 100, 2)]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"name": "x" * 99}, f"there is no output '{'x' * 60}'; one of logits, logits_small"),
        ({"name": "logits", "parameters": {"binary_data": "yes"}}, "the parameter 'binary_data' must be true or false"),
        ({"name": "logits", "parameters": {"classification": -1}}, "must be a number of classes, 1 or more"),
        ({"name": "logits", "parameters": {"classification": True}}, "must be a number of classes"),
        ({"name": "logits", "parameters": {"classification": 1.5}}, "must be a number of classes"),
        ({"name": "logits", "parameters": {"classification": "5"}}, "must be a number of classes"),
    ],
)
def test_an_output_that_cannot_be_is_refused(output: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInference, match=message):
        check_output(Output.model_validate(output), list(LOGITS))
    with pytest.raises(BadInference, match=message):
        write_outputs(asking(output), "tiny", "1", LOGITS, LABELS)


many = settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
some = settings(many, max_examples=150)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([0, 1, 2, 3, 255, 256, "", "AAAA", IMAGE, ENCODED, "UINT8", "BYTES", "logits"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)
parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "classification", "binary_data_output", "resolution", "x"]),
    st.integers(-2, 60) | anything,
    max_size=3,
)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from([IMAGE, ENCODED]) | anything,
        "datatype": st.sampled_from(["UINT8", "BYTES"]) | anything,
        "shape": st.lists(st.integers(0, 3), max_size=4) | st.sampled_from([[1], [1, 1, 1, 3], [2, 1]]) | anything,
    },
    optional={"data": st.lists(st.integers(-1, 256), max_size=12) | anything, "parameters": parameters | anything},
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=1) | anything},
    optional={
        "id": st.text() | anything,
        "parameters": parameters | anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["logits", "x"])}), max_size=2) | anything,
    },
)
framings = st.fixed_dictionaries({"json_bytes": st.none() | st.integers(0, 120)})


def survives(body: bytes, **framing: Any) -> None:
    """It is read, crosses to the service as JSON and is answered; or a ExplainedError says why not."""
    try:
        request, images = opened(body, **framing)
        crossed = InferenceRequest.model_validate(json.loads(json.dumps(request.model_dump(mode="json"))))
        write_outputs(crossed, "tiny", "1", LOGITS, LABELS)
    except ExplainedError as refusal:
        images, message = [], str(refusal)
    else:
        message = "answered"
    assert all(image.dtype == np.uint8 for image in images)
    assert 0 < len(message) < 400


@many
@given(st.binary(max_size=200), framings)
def test_arbitrary_bytes_are_read_or_refused(body: bytes, framing: dict[str, Any]) -> None:
    survives(body, **framing)


@many
@given(anything | requests, st.binary(max_size=40), st.integers(-2, 2))
def test_arbitrary_json_is_read_or_refused(content: Any, binary: bytes, wrong_by: int) -> None:
    head = json.dumps(content).encode()
    body = head + binary
    json_bytes = max(len(head) + wrong_by, 0) if binary else None
    survives(body, json_bytes=json_bytes)


@some
@given(st.data())
def test_a_damaged_request_is_read_or_refused(data: st.DataObject) -> None:
    tensor, raw = data.draw(st.sampled_from([(image_input(), PIXELS.tobytes()), (encoded_input(), elements(FILES))]))
    body, json_bytes = with_binary(tensor, raw, id="x", outputs=[{"name": "logits"}])
    damaged = bytearray(body)
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(0, 255))
    survives(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), json_bytes=json_bytes)


@some
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_files_come_through_in_binary_and_in_json(files: list[bytes]) -> None:
    tensor = encoded_input(shape=[len(files)])
    binary, json_bytes = with_binary(tensor, elements(files))
    text = as_json(tensor | {"data": [base64.b64encode(file).decode() for file in files]})
    for body, length in [(binary, json_bytes), (text, None)]:
        _, found = opened(body, json_bytes=length)
        assert [file.tobytes() for file in found] == files


@some
@given(st.integers(1, 3), st.integers(1, 4), st.randoms(use_true_random=False))
def test_pixels_come_through_in_binary_and_in_json(batch: int, side: int, random: Any) -> None:
    pixels = np.frombuffer(random.randbytes(batch * side * side * 3), np.uint8).reshape(batch, side, side, 3)
    tensor = image_input(shape=list(pixels.shape))
    for body, length in [
        with_binary(tensor, pixels.tobytes()),
        (as_json(tensor | {"data": pixels.tolist()}), None),
        (as_json(tensor | {"data": pixels.ravel().tolist()}), None),
    ]:
        assert np.array_equal(opened(body, json_bytes=length)[1][0], pixels)


@some
@given(st.lists(st.floats(width=32), min_size=3, max_size=3), st.booleans())
def test_logits_come_through_to_the_last_bit(row: list[float], binary: bool) -> None:
    values = np.array([row], np.float32)
    request = asking({"name": "logits", "parameters": {"binary_data": binary}})
    body, json_bytes = write_outputs(request, "tiny", "1", {"logits": values}, LABELS)
    if binary:
        assert body[json_bytes:] == values.tobytes()
    elif np.isfinite(values).all():
        assert np.array_equal(np.array(json.loads(body)["outputs"][0]["data"], np.float32), values[0])
