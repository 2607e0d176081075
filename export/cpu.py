"""What OpenVINO may serve of a bundle on a CPU beside float32, and how far that agrees with float32."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import MODEL
from export.precision import Answers, Run, file_name, measured

INT8 = "int8"
_BATCH = 4
_OUTPUTS = ("logits", "logits_small", "logits_large")
# By their precision: the graph, OpenVINO's inference precision, and the part of the images that measure it. bfloat16
# takes many times as long as int8 where the CPU has it without the units that make it fast.
_SERVED = {
    INT8: (file_name(INT8), "f32", 1.0),
    "bf16": (MODEL, "bf16", 0.5),
    "int8-bf16": (file_name(INT8), "bf16", 0.5),
}


def agreements(
    folder: Path, expected: Mapping[int, Answers], say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Any]]]:
    """How each precision agrees with the float32 answers at each resolution, as the manifest of `folder` has it.

    bfloat16 is left out where this CPU has none. Raises Disagreement for logits that are no numbers.
    """
    found = {}
    for precision, (graph, hint, part) in _SERVED.items():
        if hint in _hints():
            some = {resolution: _part(answers, part) for resolution, answers in expected.items()}
            found[precision] = measured(precision, some, running(folder / graph, hint), say)
    return found


def running(graph: Path, hint: str = "f32") -> Run:
    """`graph` in OpenVINO, at the side of whatever images come, `hint` being its inference precision."""
    import openvino  # at exports that ask for it only

    core = openvino.Core()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        model = core.read_model(graph)
        side = images.shape[1]
        model.reshape({"image": [-1, side, side, 3]})
        options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(model, "CPU", options).create_infer_request()
        found = []
        for start in range(0, len(images), _BATCH):
            request.infer({"image": images[start : start + _BATCH]})
            found.append(np.stack([request.get_tensor(name).data for name in _OUTPUTS]))
        return np.concatenate(found, axis=1)

    return run


def _hints() -> tuple[str, ...]:
    import openvino

    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if has_bfloat16 else ("f32",)


def _part(answers: Answers, part: float) -> Answers:
    images = min(len(answers.images), max(8, round(part * len(answers.images))))
    return Answers(answers.images[:images], answers.logits[:, :images])
