"""Engines run a bundle's graph. `app.engines.choice` picks one; each other module here is one."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
ReadGraph = Callable[[], bytes]  # the ONNX graph; called at each load


class Engine(Protocol):
    """Runs the graph at the sides that were loaded. One thread at a time may call `run`, and another one `load`."""

    name: str
    precision: str

    def load(self, side: int) -> None:
        """Specialise the dynamic graph for images of `side` pixels and run it once; again is a no-op."""
        ...

    def run(self, images: NDArray[np.uint8]) -> Logits:
        """Logits (batch, classes) of RGB images (batch, side, side, 3) of a loaded side."""
        ...
