"""Running a graph on the CPU, in ONNX Runtime or in OpenVINO."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bundle.inspection import CLASSES, INSPECTION_OUTPUTS
from bundle.precisions import F32
from bundle.tensors import INPUT, OUTPUTS, Images, Outputs

if TYPE_CHECKING:
    import openvino

ONNX_RUNTIME = f"onnxruntime {onnxruntime.__version__}"
BATCH = 4

RunImages = Callable[[Images], Outputs]
RunInspection = Callable[[Images, NDArray[np.int64]], list[NDArray[np.float32]]]


def onnxruntime_session(graph: Path | bytes) -> RunImages:
    """Runs `graph`, a file or its content, in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda images: np.stack(session.run(list(OUTPUTS), {INPUT: images}))


def inspection_session(graph: Path | bytes) -> RunInspection:
    """Runs an inspection graph on images and class indices (images, k); outputs in the order of INSPECTION_OUTPUTS."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda images, classes: session.run(list(INSPECTION_OUTPUTS), {INPUT: images, CLASSES: classes})


def openvino_session(graph: Path, inference_precision: str = F32) -> RunImages:
    """Runs `graph` in OpenVINO on the CPU, compiled again whenever images have another side than before."""
    import openvino  # exports without int8 do without it

    @lru_cache(maxsize=1)
    def request(side: int) -> "openvino.InferRequest":
        core = openvino.Core()
        model = core.read_model(graph)
        model.reshape({INPUT: [-1, side, side, 3]})
        options = {"INFERENCE_PRECISION_HINT": inference_precision, "PERFORMANCE_HINT": "LATENCY"}
        return core.compile_model(model, "CPU", options).create_infer_request()

    def run(images: Images) -> Outputs:
        inference = request(images.shape[1])
        inference.infer({INPUT: images})
        return np.stack([inference.get_tensor(name).data for name in OUTPUTS])

    return run


def in_batches(run: RunImages, images: Images) -> Outputs:
    """The answers of `run` to all `images`, four at a time."""
    batches = [run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate(batches, axis=1)
