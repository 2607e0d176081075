"""A ModelInferRequest in two: its description, which protobuf parses, and the data of its tensors, which stay bytes.

Protobuf would copy the data twice, give each number four bytes, and each empty field 40, without a limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.errors import BadInference
from app.grpc_api.inference_messages import (
    INFER_REQUEST_MESSAGE,
    TENSOR_CONTENTS,
    field_number,
    message_type,
    parse_message,
)

_MAX_FIELDS = 1000  # without the elements of a tensor of files
_MAX_DESCRIPTION_BYTES = 500_000  # names, shapes and parameters
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10

_INPUT_MESSAGE = message_type("ModelInferRequest.InferInputTensor")
_INPUTS = field_number(INFER_REQUEST_MESSAGE, "inputs")
_RAW = field_number(INFER_REQUEST_MESSAGE, "raw_input_contents")
_CONTENTS = field_number(_INPUT_MESSAGE, "contents")
_NUMBERS = field_number(TENSOR_CONTENTS, "uint_contents")
_FILES = field_number(TENSOR_CONTENTS, "bytes_contents")


@dataclass
class TypedContents:
    """What an input has in `contents`: numbers as protobuf encodes them (varints), and files."""

    numbers: list[memoryview] = field(default_factory=list)
    files: list[memoryview] = field(default_factory=list)


@dataclass
class SplitRequest:
    """A ModelInferRequest whose tensors' data are views of its message.

    Attributes:
        request: the ModelInferRequest without data.
        contents: those of each input; None for an input that has none.
        raw: raw_input_contents.
    """

    request: Any
    contents: list[TypedContents | None]
    raw: list[memoryview]


def split_request(message: bytes, max_images: int) -> SplitRequest:
    """Raise BadInference for more fields, or a longer description, than a request for `max_images` may have.

    Source: Protocol Buffers, "Encoding".
    """
    fields = _Fields(message, _MAX_FIELDS + max_images)
    description: list[memoryview] = []
    inputs: list[list[memoryview]] = []
    split = SplitRequest(None, [], [])
    for number, whole, content in fields.within(0, len(message)):
        if number == _RAW:
            split.raw.append(fields.delimited(content))
        elif number == _INPUTS:
            described, contents = _split_input(fields, content)
            inputs.append(described)
            split.contents.append(contents)
        else:
            description.append(fields.view[whole])
    _check_description([*description, *(part for described in inputs for part in described)])
    split.request = parse_message(INFER_REQUEST_MESSAGE, b"".join(description))
    split.request.inputs.extend(parse_message(_INPUT_MESSAGE, b"".join(described)) for described in inputs)
    return split


def _check_description(parts: list[memoryview]) -> None:
    described = sum(map(len, parts))
    if described > _MAX_DESCRIPTION_BYTES:
        raise BadInference(
            f"names, shapes and parameters take {described:,} bytes, over the limit of {_MAX_DESCRIPTION_BYTES:,}; "
            "send the tensor in raw_input_contents"
        )


def _split_input(fields: "_Fields", at: slice) -> tuple[list[memoryview], TypedContents | None]:
    """The fields that describe the input at `at`, and its contents."""
    described: list[memoryview] = []
    found: TypedContents | None = None
    fields.delimited(at)
    for number, whole, content in fields.within(at.start, at.stop):
        if number == _CONTENTS:
            found = found or TypedContents()
            _add_contents(fields, content, found)
        else:
            described.append(fields.view[whole])
    return described, found


def _add_contents(fields: "_Fields", at: slice, found: TypedContents) -> None:
    fields.delimited(at)
    for number, _, content in fields.within(at.start, at.stop):
        if number == _NUMBERS:
            found.numbers.append(fields.view[content])
        elif number == _FILES:
            found.files.append(fields.delimited(content))
        else:
            raise BadInference("contents has uint_contents for pixels (UINT8), or bytes_contents for files (BYTES)")


class _Fields:
    """The fields of the encoded messages in `message`, at most `limit` of them."""

    def __init__(self, message: bytes, limit: int) -> None:
        self.view = memoryview(message)
        self._message = message
        self._wire_type = _VARINT
        self._limit = self._left = limit

    def delimited(self, at: slice) -> memoryview:
        """The content at `at` of the field that was yielded last, which must have a length."""
        if self._wire_type != _LENGTH_DELIMITED:
            raise _malformed()
        return self.view[at]

    def within(self, start: int, end: int) -> Iterator[tuple[int, slice, slice]]:
        """Of each field of the message between `start` and `end`: the number, where it is, and where its content is."""
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise BadInference(f"the message has more than {self._limit:,} fields; pack repeated numbers")
            first = at
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
            self._wire_type = wire_type
            yield tag >> 3, slice(first, stop), slice(at, stop)
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
