"""What OpenVINO may serve of a bundle on a CPU beside float32, and how far that agrees with float32."""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.writer import MODEL
from export.measurement.precision import Float32Answers, RunImages, file_name, measured

INT8 = "int8"
_BATCH = 4
_OUTPUTS = ("logits", "logits_small", "logits_large")
_SERVED = {  # by their precision: the graph, and OpenVINO's inference precision
    INT8: (file_name(INT8), "f32"),
    "bf16": (MODEL, "bf16"),
    "int8-bf16": (file_name(INT8), "bf16"),
}
_TRIALS = 3


def agreements(
    folder: Path, expected: Mapping[int, Float32Answers], say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Any]]]:
    """How each precision agrees with the float32 answers at each resolution, as the manifest of `folder` has it.

    bfloat16 is left out where this CPU has none, or is not faster with it, and so would not serve in it. Raises
    Disagreement for logits that are no numbers.
    """
    hints = ["f32"]
    if _has_bfloat16():
        images = min((answers.images for answers in expected.values()), key=lambda images: images.shape[1])[:_BATCH]
        seconds = {hint: _least_seconds(running(folder / MODEL, hint), images) for hint in ("f32", "bf16")}
        if seconds["bf16"] < seconds["f32"]:
            hints.append("bf16")
        else:
            times = seconds["bf16"] / seconds["f32"]
            say(f"  bfloat16 is left out: it takes {times:.1f} times as long as float32 on this CPU")
    return {
        precision: measured(precision, expected, running(folder / graph, hint), say)
        for precision, (graph, hint) in _SERVED.items()
        if hint in hints
    }


def running(graph: Path, hint: str = "f32") -> RunImages:
    """`graph` in OpenVINO, at the side of whatever images come, `hint` being its inference precision."""
    import openvino  # at exports that ask for it only

    @lru_cache(maxsize=1)
    def request(side: int) -> openvino.InferRequest:
        core = openvino.Core()
        model = core.read_model(graph)
        model.reshape({"image": [-1, side, side, 3]})
        options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        return core.compile_model(model, "CPU", options).create_infer_request()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = []
        for start in range(0, len(images), _BATCH):
            request(images.shape[1]).infer({"image": images[start : start + _BATCH]})
            found.append(np.stack([request(images.shape[1]).get_tensor(name).data for name in _OUTPUTS]))
        return np.concatenate(found, axis=1)

    return run


def _has_bfloat16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _least_seconds(run: RunImages, images: NDArray[np.uint8]) -> float:
    """The best time of a few runs, since other load only ever adds to it."""
    seconds = []
    for _ in range(1 + _TRIALS):  # the first one also compiles
        started = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
