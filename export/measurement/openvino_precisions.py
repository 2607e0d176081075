"""The precisions beside float32 that OpenVINO may serve a bundle in on a CPU, and how they agree with float32."""

import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bundle.agreement import Agreement
from bundle.file_names import GRAPHS, MODEL
from bundle.precisions import BF16, F32, INT8, INT8_BF16
from bundle.tensors import Images
from export.measurement.float32_answers import Float32Answers, measure_agreement
from export.measurement.onnx_sessions import BATCH, RunImages, openvino_session

# By their precision: the graph, and OpenVINO's inference precision.
_SERVED = {INT8: (GRAPHS[INT8], F32), BF16: (MODEL, BF16), INT8_BF16: (GRAPHS[INT8], BF16)}
_TIMED_RUNS = 3


def agreements(
    folder: Path, expected: Mapping[int, Float32Answers], say: Callable[[str], None]
) -> dict[str, dict[int, Agreement]]:
    """How each precision whose graph is there agrees with the float32 answers at each resolution.

    bfloat16 is left out where this CPU has none, or is not faster with it, and so would not serve in it. Raises
    Disagreement for logits that are not finite.
    """
    available = [F32, BF16] if has_bfloat16() and _is_faster_in_bfloat16(folder, expected, say) else [F32]
    return {
        precision: measure_agreement(precision, expected, openvino_session(folder / graph, inference_precision), say)
        for precision, (graph, inference_precision) in _SERVED.items()
        if inference_precision in available and (folder / graph).is_file()
    }


def has_bfloat16() -> bool:
    """Whether OpenVINO is installed, and computes in bfloat16 on this CPU."""
    if importlib.util.find_spec("openvino") is None:
        return False
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _is_faster_in_bfloat16(folder: Path, expected: Mapping[int, Float32Answers], say: Callable[[str], None]) -> bool:
    images = min((answers.images for answers in expected.values()), key=lambda images: images.shape[1])[:BATCH]
    f32, bf16 = (_least_seconds(openvino_session(folder / MODEL, precision), images) for precision in (F32, BF16))
    if bf16 >= f32:
        say(f"  bfloat16 is left out: it takes {bf16 / f32:.1f} times as long as float32 on this CPU")
    return bf16 < f32


def _least_seconds(run: RunImages, images: Images) -> float:
    """The best time of a few runs, since other load only ever adds to it."""
    run(images)  # compiles
    seconds = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
