"""OpenVINO on the CPU."""

from collections.abc import Iterator

import numpy as np
import openvino

from app.engines.engine import OUTPUTS, Files, Images, Outputs, ReadGraph

_core = openvino.Core()
PRECISIONS = ("bf16", "f32") if "BF16" in _core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ("f32",)


class OpenVino:
    name = "openvino"
    batch = 8

    def __init__(self, graph: ReadGraph, precision: str) -> None:
        self.precision = precision
        self._graph = graph
        self._requests: dict[int, openvino.InferRequest] = {}

    def load(self, side: int) -> None:
        if side in self._requests:
            return
        model = _core.read_model(self._graph())
        model.reshape({"image": [-1, side, side, 3]})
        # One call at a time, each on all cores: the batcher sees to that.
        options = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
        request = _core.compile_model(model, "CPU", options).create_infer_request()
        request.infer({"image": np.zeros((1, side, side, 3), np.uint8)})
        self._requests[side] = request

    def run(self, images: Images) -> Outputs:
        request = self._requests[images.shape[1]]
        request.infer({"image": images}, share_inputs=True)
        return np.stack([request.get_tensor(name).data for name in OUTPUTS])  # a copy: the next call overwrites them

    def close(self) -> None:
        self._requests.clear()


def offers(files: Files, _: int) -> Iterator[OpenVino]:
    for precision in PRECISIONS:
        yield OpenVino(files.graphs["f32"], precision)
