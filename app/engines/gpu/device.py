"""The protocol of a GPU for the TensorRT engine. `app.engines.gpu.cuda_device` implements it.

Memory, streams and the like are given back by leaving their contexts. Every method raises DeviceError where the GPU,
its driver or TensorRT fails. Work on a stream is asynchronous: it is done in the stream's order, at some time after
the call.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

Address = NewType("Address", int)  # in the GPU's memory
Stream = NewType("Stream", int)
Event = NewType("Event", int)
Graph = NewType("Graph", int)  # a captured one, ready to be launched

TensorShape = tuple[int, ...]


class DeviceError(Exception):
    """A call failed: the error's name, and what was being done. Results of later work on the GPU mean nothing."""


class CaptureFailed(DeviceError):
    """The work cannot be captured as a graph. The stream is as it was, and the work can be enqueued."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a network."""

    dtype: str  # as numpy names it
    shape: TensorShape  # of one image's: without the batch, which comes first
    is_input: bool


class Context(Protocol):
    """A network bound to buffers at one batch size. It is not changed again: a graph captured from it stays true."""

    def enqueue(self, stream: Stream) -> None:
        """Run once."""
        ...


class PlanNetwork(Protocol):
    """A deserialised plan. `profiles` has the smallest, best and largest shape of the input in each profile."""

    tensors: Mapping[str, Tensor]
    profiles: list[tuple[TensorShape, TensorShape, TensorShape]]
    scratch_bytes: int  # of memory that a run needs beside its buffers, at any profile

    def context(
        self, profile: int, addresses: Mapping[str, Address], scratch: Address, stream: Stream
    ) -> AbstractContextManager[Context]:
        """A context for the shape that `profile` is best at, which will run on `stream`.

        `addresses` of the tensors and `scratch` are multiples of 256. Contexts that never run at the same time may
        share `scratch`.
        """
        ...


class TensorRTDevice(Protocol):
    """One GPU, with the TensorRT that runs on it."""

    name: str
    compute_capability: str  # "9.0"
    tensorrt: str  # its version, "10.16.1.11"

    def network(self, plan: bytes, *, host_code: bool) -> AbstractContextManager[PlanNetwork]:
        """Deserialise `plan`, which is code: check it first. `host_code` lets it bring a runtime of its own."""
        ...

    def memory(self, size: int) -> AbstractContextManager[Address]:
        """`size` bytes on the GPU, at a multiple of 256."""
        ...

    def pinned(self, size: int) -> AbstractContextManager[NDArray[np.uint8]]:
        """`size` bytes of host memory that the GPU copies from and to by itself."""
        ...

    def stream(self) -> AbstractContextManager[Stream]: ...

    def event(self) -> AbstractContextManager[Event]: ...

    def copy_in(self, to: Address, pixels: NDArray[np.uint8], stream: Stream) -> None:
        """Copy all of `pixels`, contiguous and in pinned memory."""
        ...

    def copy_out(self, to: NDArray[Any], start: Address, pitch: int, stream: Stream) -> None:
        """Fill the rows of `to`, contiguous and in pinned memory, from `start` and every `pitch` bytes after it."""
        ...

    def capture(self, context: Context, stream: Stream) -> AbstractContextManager[Graph]:
        """A graph of what `context` enqueues, once it has run; CaptureFailed if there can be none."""
        ...

    def launch(self, graph: Graph, stream: Stream) -> None: ...

    def record(self, event: Event, stream: Stream) -> None:
        """Let `event` be the moment at which all work that is now on `stream` is done."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """Let later work on `stream` wait for what `event` is now."""
        ...

    def passed(self, event: Event) -> bool:
        """Whether what `event` is now lies in the past."""
        ...

    def synchronize(self, event: Event) -> None:
        """Wait here for `event`."""
        ...

    def drain(self) -> None:
        """Wait here until the GPU has nothing more to do."""
        ...
