"""What an engine is. `choice` picks one, `host` holds it in a process of its own, `live` watches that one."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # RGB (batch, side, side, 3)
Outputs = NDArray[np.float32]  # (outputs, batch, classes), in the order of OUTPUTS
ReadGraph = Callable[[], bytes]  # the ONNX graph; called at each load

OUTPUTS = ("logits", "logits_small", "logits_large")


class Engine(Protocol):
    """Runs the graph at the sides that were loaded; one call at a time."""

    name: str
    precision: str

    def load(self, side: int) -> None:
        """Specialise the dynamic graph for images of `side` pixels and run it once; again is a no-op."""
        ...

    def run(self, images: Images) -> Outputs:
        """The logits of images of a loaded side."""
        ...
