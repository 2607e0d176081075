"""Bounds of a ModelInferRequest that are checked before protobuf parses it.

Parsed fields take far more memory than their bytes, an empty tensor 40 times as much, and the parser has no limit.
"""

from collections.abc import Iterator

from app.errors import BadInference
from app.grpc_api.inference_messages import INFER_REQUEST_MESSAGE, TENSOR_CONTENTS, field_number, message_type

_MAX_FIELDS = 1000  # without the elements of a tensor of files
_MAX_DESCRIPTION_BYTES = 500_000  # names, shapes and parameters
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10

_INPUTS = field_number(INFER_REQUEST_MESSAGE, "inputs")
_RAW = field_number(INFER_REQUEST_MESSAGE, "raw_input_contents")
_CONTENTS = field_number(message_type("ModelInferRequest.InferInputTensor"), "contents")
_USED_CONTENTS = [field_number(TENSOR_CONTENTS, name) for name in ("uint_contents", "bytes_contents")]


def check_bounds(message: bytes, max_images: int) -> None:
    """Raise BadInference for more fields, or a longer description, than a request for `max_images` may have.

    Source: Protocol Buffers, "Encoding".
    """
    fields = _Fields(message, _MAX_FIELDS + max_images)
    described = len(message)
    for number, start, end in fields.within(0, len(message)):
        if number == _RAW:
            described -= end - start
        elif number == _INPUTS:
            described -= sum(_contents_bytes(fields, start, end))
    if described > _MAX_DESCRIPTION_BYTES:
        raise BadInference(
            f"names, shapes and parameters take {described:,} bytes, over the limit of {_MAX_DESCRIPTION_BYTES:,}; "
            "send the tensor in raw_input_contents"
        )


def _contents_bytes(fields: "_Fields", start: int, end: int) -> Iterator[int]:
    """The bytes of the tensor in the input between `start` and `end`."""
    for number, first, last in fields.within(start, end):
        if number == _CONTENTS:
            if any(kind not in _USED_CONTENTS for kind, _, _ in fields.within(first, last)):
                raise BadInference("contents has uint_contents for pixels (UINT8), or bytes_contents for files (BYTES)")
            yield last - first


class _Fields:
    """The fields of the encoded messages in `message`, at most `limit` of them."""

    def __init__(self, message: bytes, limit: int) -> None:
        self._message = message
        self._limit = self._left = limit

    def within(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The number, the start and the end of each field of the message between `start` and `end`."""
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise BadInference(f"the message has more than {self._limit:,} fields; pack repeated numbers")
            tag, at = self._varint(at, end)
            wire_type = tag & 7
            if wire_type == _LENGTH_DELIMITED:
                size, at = self._varint(at, end)
                stop = at + size
            elif wire_type == _VARINT:
                _, stop = self._varint(at, end)
            else:
                stop = at + _FIXED_BYTES.get(wire_type, end)
            if stop > end:
                raise _malformed()
            yield tag >> 3, at, stop
            at = stop

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number that begins at `at`, and where it ends."""
        value = 0
        for position, byte in enumerate(self._message[at : min(end, at + _MAX_VARINT_BYTES)]):
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                return value, at + position + 1
        raise _malformed()


def _malformed() -> BadInference:
    return BadInference(f"the message is no {INFER_REQUEST_MESSAGE.DESCRIPTOR.full_name}")
