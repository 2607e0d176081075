"""A bundle's graphs in half precision: made from the float32 graph, and compared with it on photographs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from bundle.agreement import Agreement
from bundle.file_names import GRAPHS, MODEL
from bundle.manifest import HalfPrecision
from bundle.precisions import BF16
from bundle.tensors import Images, Outputs
from export.graphs.fused_attention import fuse_attention
from export.graphs.half_precision import emulate_half, to_half
from export.measurement.comparison import Disagreement, compare
from export.measurement.onnx_sessions import ONNX_RUNTIME, RunImages, in_batches, onnxruntime_session
from export.measurement.photos import views
from model.spec import Activation, Preprocessing

# At the least resolution; fewer where an image takes longer.
MAX_MEASURED_VIEWS = 200
MIN_MEASURED_VIEWS = 8


@dataclass(frozen=True)
class Float32Answers:
    """Views of photographs at one resolution, and float32's logits.

    Attributes:
        images: (views, side, side, 3); view i is of photograph i modulo `photographs`.
        logits: (outputs, views, classes).
        photographs: how many there are.
        activation: makes scores of the logits.
    """

    images: Images
    logits: Outputs
    photographs: int
    activation: Activation


def float32_answers(
    graph: Path, preprocessing: Mapping[int, Preprocessing], photos: Sequence[Path], activation: Activation
) -> dict[int, Float32Answers]:
    """The answers of the float32 `graph` to views of `photos`, by resolution. Raises NoPhotos."""
    run = onnxruntime_session(graph)
    least = min(steps.crop for steps in preprocessing.values())
    answers = {}
    for resolution, steps in preprocessing.items():
        count = max(MIN_MEASURED_VIEWS, round(MAX_MEASURED_VIEWS * (least / steps.crop) ** 4))
        images = views(steps, count, photos)
        answers[resolution] = Float32Answers(images, in_batches(run, images), min(count, len(photos)), activation)
    return answers


def add_precision(
    folder: Path,
    precision: str,
    expected: Mapping[int, Float32Answers],
    say: Callable[[str], None],
) -> HalfPrecision:
    """Write the graph of the bundle in `folder` in `precision`, and measure it.

    Raises Disagreement if its logits are not finite, and OverflowError as to_half does.
    """
    graph = ir.load(folder / MODEL)
    fuse_attention(graph)
    to_half(graph, precision)
    path = folder / GRAPHS[precision]
    ir.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    if precision == BF16:
        emulate_half(graph)  # ONNX Runtime has no such kernels on a CPU
    run = onnxruntime_session(ir.to_proto(graph).SerializeToString())
    measured = measure_agreement(precision, expected, run, say)
    return HalfPrecision(engine=f"{ONNX_RUNTIME}, CPU", agreement=measured)


def measure_agreement(
    precision: str,
    expected: Mapping[int, Float32Answers],
    run: RunImages,
    say: Callable[[str], None],
) -> dict[int, Agreement]:
    """How `run` agrees with float32 at each resolution. Raises Disagreement if its logits are not finite."""
    measured = {}
    for resolution, answers in expected.items():
        try:
            compared = compare(answers.logits, in_batches(run, answers.images), answers.activation, answers.photographs)
        except Disagreement as err:
            raise Disagreement(f"{precision} at {resolution}: {err}; use another precision") from err
        say(f"  {precision} at {resolution}: {compared.describe()}")
        measured[resolution] = compared
    return measured
