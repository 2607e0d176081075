"""ONNX Runtime on the CPU."""

from collections.abc import Iterator

import numpy as np
import onnxruntime

from app.engines.engine import OUTPUTS, Files, Images, Outputs, ReadGraph


class OnnxRuntime:
    name = "onnxruntime"
    precision = "f32"
    batch = 8

    def __init__(self, graph: ReadGraph) -> None:
        self._graph = graph
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}

    def load(self, side: int) -> None:
        if side in self._sessions:
            return
        options = onnxruntime.SessionOptions()
        # With the side known, resize matrices and position embeddings fold to constants.
        options.add_free_dimension_override_by_name("side", side)
        session = onnxruntime.InferenceSession(self._graph(), options, providers=["CPUExecutionProvider"])
        session.run(list(OUTPUTS), {"image": np.zeros((1, side, side, 3), np.uint8)})
        self._sessions[side] = session

    def run(self, images: Images) -> Outputs:
        return np.stack(self._sessions[images.shape[1]].run(list(OUTPUTS), {"image": images}))

    def close(self) -> None:
        self._sessions.clear()


def offers(files: Files, _: int) -> Iterator[OnnxRuntime]:
    yield OnnxRuntime(files.graphs["f32"])
