import pytest

from app.errors import BadInference
from app.grpc_api.message_bounds import split_request
from tests.support.grpc_ports import file_request, infer_request

EMPTY_INPUT, EMPTY_RAW, EMPTY_PARAMETER = b"\x2a\x00", b"\x3a\x00", b"\x22\x00"


def in_contents(field: bytes) -> bytes:
    """A request with one input, whose contents are `field`."""
    return prefixed(5, prefixed(5, field))


def prefixed(number: int, content: bytes) -> bytes:
    size = bytearray()
    left = len(content)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([number << 3 | 2, *size, left]) + content


def test_requests_of_clients_are_within_the_bounds() -> None:
    for request in (infer_request(count=3), file_request([b"file"] * 32), file_request([bytes(1000)], id="x")):
        for index in range(32):
            request.parameters[f"name{index}"].string_param = "x" * 1000
        split_request(request.SerializeToString(), 32)


@pytest.mark.parametrize("field", [EMPTY_INPUT, EMPTY_RAW, EMPTY_PARAMETER, b"\x78\x01", b"\xfd\x01\0\0\0\0"])
def test_a_flood_of_fields_is_refused(field: bytes) -> None:
    split_request(field * 1000, 32)
    with pytest.raises(BadInference, match="more than 1,032 fields"):
        split_request(field * 100_000, 32)


def test_a_flood_of_elements_is_refused() -> None:
    split_request(in_contents(b"\x42\x00" * 1000), 32)
    with pytest.raises(BadInference, match="more than 1,032 fields"):
        split_request(in_contents(b"\x42\x00" * 100_000), 32)


def test_contents_of_other_types_are_refused() -> None:
    split_request(in_contents(prefixed(4, bytes(1000))), 32)
    for number in (1, 2, 3, 5, 6, 7):
        with pytest.raises(BadInference, match="contents has uint_contents for pixels"):
            split_request(in_contents(prefixed(number, bytes(1000))), 32)


def test_a_long_description_is_refused() -> None:
    split_request(prefixed(5, prefixed(1, bytes(400_000))), 32)
    with pytest.raises(BadInference, match="over the limit of 500,000"):
        split_request(prefixed(5, prefixed(1, bytes(600_000))), 32)


@pytest.mark.parametrize(
    "message", [b"\x2b", b"\x2c", b"\x2a", b"\x2a\x05ab", b"\x08" + b"\xff" * 12, b"\x2a\x02\x2a\x05"]
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(BadInference, match="the message is no inference"):
        split_request(message, 32)


def test_the_data_of_tensors_are_views_and_the_rest_is_parsed() -> None:
    message = infer_request(count=2, id="a").SerializeToString()
    split = split_request(message, 32)
    assert (split.request.id, list(split.request.inputs[0].shape)) == ("a", [2, 224, 224, 3])
    assert (split.contents, list(split.request.raw_input_contents)) == ([None], [])
    assert split.raw[0].obj is message
    assert split.raw[0] == bytes(2 * 224 * 224 * 3)
    split = split_request(file_request([b"one", b""]).SerializeToString(), 32)
    assert split.contents[0] is not None
    assert [bytes(file) for file in split.contents[0].files] == [b"one", b""]


@pytest.mark.parametrize("message", [b"\x28\x01", b"\x38\x01", b"\x2a\x02\x28\x01", in_contents(b"\x40\x01")])
def test_data_without_a_length_are_refused(message: bytes) -> None:
    with pytest.raises(BadInference, match="the message is no inference"):
        split_request(message, 32)
