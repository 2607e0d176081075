"""The protocol of engines. `registry` names them, `selection` picks one, `engine_process` holds it.

A module of engines has a function `offer_NAME(files, side)`. It yields engines, not loaded yet, for each precision that
it has here, the one that is likely the fastest first. It yields nothing where it cannot be expected to serve (a machine
without a GPU), and raises EngineRefused where one would expect it to serve.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bundle.plan_manifest import PlanManifest
from bundle.tensors import ImageRows, Images, Outputs

ReadGraph = Callable[[], bytes]  # the ONNX graph; called at each load, BadBundle if it is not the bundle's


class StoredFile(Protocol):
    """A file of a Store; app.engines.compiled_cache.MappedFile is one."""

    content: NDArray[np.uint8]

    def release(self) -> None: ...


class Store(Protocol):
    """Keeps what an engine compiled or measured for a later start; app.engines.compiled_cache.CompiledCache is one."""

    def read(self, name: str) -> StoredFile | None: ...
    def write(self, name: str, content: bytes) -> None: ...
    def read_json(self, name: str) -> Any: ...
    def write_json(self, name: str, value: object) -> None: ...


@dataclass(frozen=True)
class TensorRTPlan:
    """A network that TensorRT built from the graph for one GPU. A plan is code: read it only if its manifest fits.

    `read` raises BadBundle if the file is not the one that the manifest describes.
    """

    manifest: PlanManifest
    read: Callable[[], bytes]


@dataclass(frozen=True)
class EngineFiles:
    """The files of a bundle for one resolution.

    Attributes:
        graphs: ONNX graphs by their precision, "f32" always among them.
        plans: those that were built from the graph.
        command: builds a plan for this resolution.
        store: for these files only.
        classes: of the network.
        null_rate: images per second of the engine that computes nothing; 0 is at once.
    """

    graphs: Mapping[str, ReadGraph]
    plans: Sequence[TensorRTPlan] = ()
    command: str = "python export/to_trt.py"
    store: Store | None = None
    classes: int = 0
    null_rate: float = 0.0


class EngineRefused(Exception):
    """An engine does not serve here; the message says why and how to mend it."""


class Engine(Protocol):
    """Runs the graph at the sides that were loaded, one call at a time.

    Any number of images can be run, more than `batch` in several passes if need be.

    Attributes:
        name: in app.engines.registry.
        precision: in which it computes.
        batch: the most images that a call should hold.
    """

    name: str
    precision: str
    batch: int

    def load(self, side: int) -> None:
        """Get ready for images of `side` pixels and run once; again is a no-op. EngineRefused if that cannot be."""
        ...

    def run(self, images: Images) -> Outputs:
        """The logits of images of a loaded side."""
        ...

    def close(self) -> None:
        """Give back all memory, that of a device too; again is a no-op, and nothing is run afterwards."""
        ...


class PendingOutputs(Protocol):
    """The logits of images for which an engine is at work."""

    def ready(self) -> bool:
        """Whether `outputs` has nothing to wait for."""
        ...

    def outputs(self) -> Outputs:
        """The logits; waits for them."""
        ...


@runtime_checkable
class OverlappingEngine(Engine, Protocol):
    """An engine that takes the images of the next call while it computes for the one before, on a device of its own."""

    def begin(self, images: ImageRows) -> PendingOutputs:
        """Send images of a loaded side on their way. They are not read after it has returned."""
        ...
