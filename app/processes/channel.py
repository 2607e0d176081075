"""Messages between the service and a worker process: a JSON head and raw arrays, nothing that can run.

What a worker sends is bounded and checked before it is used: a decoder that an image has taken over can give wrong
pixels, and no more.
"""

import json
import logging
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bundle.bundle_errors import ExplainedError

Values = list[Any]  # JSON values
Arrays = list[NDArray[Any]]
T = TypeVar("T")

MAX_RECORDS = 50  # of the log in one answer
MAX_RECORD_CHARS = 2_000
MAX_ERROR_CHARS = 16_000
# What reading an answer raises for one that its worker cannot rightly give
INVALID_ANSWER = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, MemoryError)

_LENGTH = struct.Struct("!I")
_MAX_REQUEST_HEAD_BYTES = 16 << 20
_MAX_PIECES = 100  # in one call of sendmsg


@dataclass(frozen=True)
class Limits:
    """What a worker may use once its object is made.

    Attributes:
        memory_bytes: memory beyond what the process has mapped by then; None for no cap.
        sealed: whether the process is kept from opening files and sockets, and from writing files.
    """

    memory_bytes: int | None = None
    sealed: bool = False


def _accept(_values: Values, _arrays: Arrays) -> None:
    """The check of a trusted worker's answer."""


@dataclass(frozen=True)
class Reply:
    """The bounds of an answer; a worker whose answer exceeds them is killed. The defaults are for trusted workers.

    Attributes:
        head_bytes: the longest JSON head.
        array_bytes: the most bytes of all arrays together.
        raises: the service errors that the method may raise; None for any.
        check: raises a ValueError, LookupError or TypeError for values or arrays that the method cannot return.
    """

    head_bytes: int = 16 << 20
    array_bytes: int = 1 << 32
    raises: tuple[type[ExplainedError], ...] | None = None
    check: Callable[[Values, Arrays], None] = _accept

    def error(self, name: str) -> type[ExplainedError]:
        """The class of the service error `name`; ValueError if the method does not raise it."""
        kind = _error_classes(ExplainedError).get(name)
        if kind is None:
            raise ValueError("an error that the service does not have")
        if self.raises is not None and kind not in self.raises:
            raise ValueError(f"{name}, which this method does not raise")
        return kind


def _error_classes(base: type[ExplainedError]) -> dict[str, type[ExplainedError]]:
    """The subclasses of `base` that this process knows, by name."""
    classes: dict[str, type[ExplainedError]] = {}
    for kind in base.__subclasses__():
        classes |= {kind.__name__: kind} | _error_classes(kind)
    return classes


EMPTY_REPLY = Reply(head_bytes=1 << 20, array_bytes=0)  # an error or log records at most


class ArrayHeader(BaseModel):
    """The type and shape of an array that follows the head."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: Annotated[str, Field(pattern=r"^[|<>][uif][1248]$")]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 40)]], Field(max_length=8)]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class ReplyHead(BaseModel):
    """The JSON of an answer: `values`, or an `error`, which is the name of a service error or empty."""

    model_config = ConfigDict(strict=True, extra="forbid")

    arrays: Annotated[list[ArrayHeader], Field(max_length=10_000)]
    log: Annotated[
        list[
            tuple[Annotated[int, Field(ge=0, le=logging.CRITICAL)], Annotated[str, Field(max_length=MAX_RECORD_CHARS)]]
        ],
        Field(max_length=MAX_RECORDS),
    ]
    values: list[Any] | None = None
    error: Annotated[str, Field(max_length=100)] | None = None
    message: Annotated[str, Field(max_length=MAX_ERROR_CHARS)] = ""


@dataclass(frozen=True)
class Answer:
    """A worker's answer that keeps within its Reply."""

    head: ReplyHead
    arrays: Arrays
    error_class: type[ExplainedError] | None


def encode_message(head: dict[str, Any], arrays: Arrays) -> list[memoryview]:
    """A message's bytes in pieces: the length of the head, the head, and the arrays that it describes."""
    headers = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]
    encoded = json.dumps(head | {"arrays": headers}, ensure_ascii=False).encode("utf-8", "replace")
    pieces = [memoryview(_LENGTH.pack(len(encoded)) + encoded)]
    return pieces + [np.ascontiguousarray(array).data.cast("B") for array in filter(np.size, arrays)]


_EMPTY_ANSWER = Answer(ReplyHead(values=[], log=[], arrays=[]), [], None)
_EMPTY_HEAD = bytes(encode_message({"values": [], "log": []}, [])[0][_LENGTH.size :])

# A reading yields one buffer after the other, to be filled with what is received, and returns the message: so the same
# code serves sockets that block and sockets that do not.
Reading = Generator[memoryview, None, T]


def read_answer(reply: Reply) -> Reading[Answer]:
    """Reads a worker's answer; raises one of INVALID_ANSWER for one that goes beyond `reply`."""
    encoded = yield from _read_head(reply.head_bytes)
    if encoded == _EMPTY_HEAD:  # the answer of a decoder, for each image
        reply.check([], [])
        return _EMPTY_ANSWER
    head = ReplyHead.model_validate_json(encoded)
    if (head.values is None) == (head.error is None):
        raise ValueError("neither values nor an error, or both")
    if sum(array.bytes for array in head.arrays) > reply.array_bytes:
        raise ValueError("larger arrays than the reply may have")
    arrays = yield from _read_arrays(head.arrays)
    if head.values is not None:
        reply.check(head.values, arrays)
    return Answer(head, arrays, reply.error(head.error) if head.error else None)


def read_request() -> Reading[tuple[dict[str, Any], Arrays]]:
    """Reads a request of the service, which is trusted."""
    head = json.loads((yield from _read_head(_MAX_REQUEST_HEAD_BYTES)))
    return head, (yield from _read_arrays([ArrayHeader(**array) for array in head.pop("arrays")]))


def _read_head(max_bytes: int) -> Reading[bytearray]:
    length = bytearray(_LENGTH.size)
    yield memoryview(length)
    (size,) = _LENGTH.unpack(length)
    if size > max_bytes:
        raise ValueError("the head is too long")
    head = bytearray(size)
    yield memoryview(head)
    return head


def _read_arrays(headers: Iterable[ArrayHeader]) -> Reading[Arrays]:
    arrays: Arrays = []
    for header in headers:
        array = np.empty(header.shape, np.dtype(header.dtype))
        if array.size:
            yield array.reshape(-1).data.cast("B")
        arrays.append(array)
    return arrays


class PendingResult(Protocol):
    """What a worker's method may return instead of values and arrays: its work goes on elsewhere, on a GPU."""

    def ready(self) -> bool:
        """Whether `result` has nothing to wait for."""
        ...

    def result(self) -> tuple[Values, Arrays]:
        """The values and arrays of the call; waits for them, and raises what the method would raise."""
        ...


class Channel:
    """Sends and receives messages over a socket that blocks.

    Both raise TimeoutError at `deadline`, on the clock of time.monotonic.
    """

    def __init__(self, connection: socket.socket, deadline: float | None = None) -> None:
        self._socket = connection
        self._deadline = deadline

    def send(self, head: dict[str, Any], arrays: Arrays) -> None:
        pieces = encode_message(head, arrays)
        while pieces:  # in one call, so that the other side wakes once
            self._set_timeout()
            sent = self._socket.sendmsg(pieces[:_MAX_PIECES])
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if sent:
                pieces[0] = pieces[0][sent:]

    def receive(self, reading: Reading[T]) -> T:
        """What `reading` returns. EOFError if the other side has ended."""
        try:
            while True:
                self._fill(next(reading))
        except StopIteration as end:
            message: T = end.value
            return message

    def readable(self, seconds: float) -> bool:
        """Whether something can be received within `seconds`, or the other side has ended."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def _fill(self, buffer: memoryview) -> None:
        while buffer:
            self._set_timeout()
            received = self._socket.recv_into(buffer)
            if not received:
                raise EOFError
            buffer = buffer[received:]

    def _set_timeout(self) -> None:
        if self._deadline is not None:
            seconds = self._deadline - time.monotonic()
            if seconds <= 0:
                raise TimeoutError
            self._socket.settimeout(seconds)
