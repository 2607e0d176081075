"""A bundle's graphs in half precision: made from the float32 graph, and compared with it on photographs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from bundle.file_names import GRAPHS, MODEL
from bundle.golden import Golden
from bundle.manifest import HalfPrecision, PrecisionAgreement
from bundle.precisions import BF16
from export.graphs.fused_attention import fuse_attention
from export.graphs.half_precision import emulate_half, to_half
from export.measurement.agreement import Agreement, Disagreement, agreement
from export.measurement.onnx_sessions import ONNX_RUNTIME, RunImages, in_batches, onnxruntime_session
from export.measurement.photos import views
from model.spec import Preprocessing

# At the least resolution, fewer where an image takes longer. Among 200 one may have another best class if 99.5 % must
# have the same.
MAX_MEASURED_VIEWS = 200
MIN_MEASURED_VIEWS = 8


def float32_answers(
    graph: Path, preprocessing: Mapping[int, Preprocessing], photos: Path | None = None
) -> dict[int, Golden]:
    """Views of the photographs at each resolution, and the answers of the float32 `graph`. Raises NoPhotos."""
    run = onnxruntime_session(graph)
    least = min(steps.crop for steps in preprocessing.values())
    answers = {}
    for resolution, steps in preprocessing.items():
        count = max(MIN_MEASURED_VIEWS, round(MAX_MEASURED_VIEWS * (least / steps.crop) ** 4))
        images = views(steps, count, photos)
        answers[resolution] = Golden(images, in_batches(run, images))
    return answers


def add_precision(
    folder: Path, precision: str, expected: Mapping[int, Golden], say: Callable[[str], None]
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
    return HalfPrecision(engine=f"{ONNX_RUNTIME}, CPU", photographs=measured)


def measure_agreement(
    precision: str, expected: Mapping[int, Golden], run: RunImages, say: Callable[[str], None]
) -> dict[int, PrecisionAgreement]:
    """How `run` agrees with float32 at each resolution. Raises Disagreement if its logits are not finite."""
    measured = {}
    for resolution, answers in expected.items():
        compared = agreement(answers.logits, in_batches(run, answers.images))
        _report(precision, resolution, compared, say)
        measured[resolution] = compared.for_manifest()
    return measured


def _report(precision: str, resolution: int, compared: Agreement, say: Callable[[str], None]) -> None:
    say(
        f"  {precision} at {resolution}: the same best class for {compared.top1:.1%} of {compared.images} photographs, "
        f"logits differ from float32's by at most {compared.worst:.1e}, the largest is {compared.scale:.1f}"
    )
    if not np.isfinite(compared.worst):
        raise Disagreement(f"{precision} gives logits that are NaN or infinite; use another precision")
