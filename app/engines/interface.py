"""What an engine is. `choice` picks one, `host` holds it in a process of its own, `live` watches that one.

A module of engines has a function `offers(files, side)`: it yields engines, not loaded yet, for each precision that it
has here, the one that is likely the fastest first. It yields nothing where it plainly cannot be (a machine without a
GPU), and raises Refused where one would expect it to serve.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.plan_manifest import PlanManifest
from bundle.tensors import Images, Outputs

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
    """What TensorRT built of the graph for one GPU. A plan is code: read it only if its passport fits.

    `read` raises BadBundle if the file is not the one that the passport describes.
    """

    passport: PlanManifest
    read: Callable[[], bytes]


@dataclass(frozen=True)
class EngineFiles:
    """What a bundle has for one resolution.

    `graphs` are ONNX graphs by their precision, "f32" always among them. `agreement` has the share of photographs for
    which a precision on the CPU gave float32's best class. `unfit` says of plans that cannot be used why, `command`
    builds one for this resolution. `store` is for these files only.
    """

    graphs: Mapping[str, ReadGraph]
    plans: Sequence[TensorRTPlan] = ()
    unfit: Sequence[str] = ()
    command: str = "python export/to_trt.py"
    agreement: Mapping[str, float] = field(default_factory=dict)
    store: Store | None = None


class EngineRefused(Exception):
    """Why an engine does not serve here, as a sentence that says what would mend it."""


class Engine(Protocol):
    """Runs the graph at the sides that were loaded; one call at a time. `batch` is the most images a call should hold.

    Any number of images can be run, more than `batch` in several passes if need be.
    """

    name: str
    precision: str
    batch: int

    def load(self, side: int) -> None:
        """Get ready for images of `side` pixels and run once; again is a no-op. Refused if that cannot be."""
        ...

    def run(self, images: Images) -> Outputs:
        """The logits of images of a loaded side."""
        ...

    def close(self) -> None:
        """Give back all memory, that of a device too; again is a no-op, and nothing is run afterwards."""
        ...
