"""The worker's side of an engine: one graph at one side. `app.engines.live` calls it."""

import hashlib
import os

import numpy as np
from numpy.typing import NDArray

from app.engines.choice import choose
from app.engines.engine import Engine
from app.errors import BadBundle
from app.golden import Golden
from app.worker import Arrays, Values


class Host:
    """Runs the graph in the open file `graph`, whose sha256 must be `digest`."""

    def __init__(self, graph: int, digest: str) -> None:
        self._file = graph
        self._digest = digest
        self._engine: Engine | None = None

    def start(
        self, engine: str, precision: str, images: NDArray[np.uint8], logits: NDArray[np.float32]
    ) -> tuple[Values, Arrays]:
        """Choose the engine, see app.engines.choice; its name and precision."""
        self._engine = choose(self._graph, Golden(images, logits), engine, precision)
        return [self._engine.name, self._engine.precision], []

    def run(self, images: NDArray[np.uint8]) -> tuple[Values, Arrays]:
        assert self._engine is not None
        return [], [self._engine.run(images)]

    def _graph(self) -> bytes:
        # By offset: other workers have the same open file.
        graph = bytearray()
        while chunk := os.pread(self._file, 1 << 26, len(graph)):
            graph += chunk
        if hashlib.sha256(graph).hexdigest() != self._digest:
            raise BadBundle("the bundle's graph was overwritten while it was served; export it again")
        return bytes(graph)
