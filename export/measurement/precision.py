"""A bundle's graphs in fewer bits: made from the float32 one, and measured against it on photographs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from bundle.writer import MODEL
from export.graphs.attention import fuse_attention
from export.graphs.half import emulated, to_half
from export.measurement.agreement import Agreement, Disagreement, agreement
from export.measurement.photos import views
from model.spec import Preprocessing

# At the least resolution, fewer where an image takes longer. Among 200 one may have another best class if 99.5 % must
# have the same.
IMAGES = 200
_BATCH = 4
_OUTPUTS = ("logits", "logits_small", "logits_large")


def file_name(precision: str) -> str:
    return f"model.{precision}.onnx"


RunImages = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images to logits (outputs, images, classes)


@dataclass(frozen=True)
class Float32Answers:
    """Photographs (images, side, side, 3), and float32's logits for them (outputs, images, classes)."""

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]


def float32_answers(
    model: Path, preprocessing: Mapping[int, Preprocessing], photos: Path | None = None
) -> dict[int, Float32Answers]:
    """What the graph `model` answers at each resolution; NoPhotos."""
    graph = model.read_bytes()
    least = min(steps.crop for steps in preprocessing.values())
    found = {}
    for resolution, steps in preprocessing.items():
        images = views(steps, max(8, round(IMAGES * (least / steps.crop) ** 4)), photos)
        found[resolution] = Float32Answers(images, run_logits(graph, images))
    return found


def add_precision(
    folder: Path, precision: str, expected: Mapping[int, Float32Answers], say: Callable[[str], None]
) -> dict[str, Any]:
    """Write the graph of the bundle in `folder` in `precision`; what the manifest says of it.

    Raises Disagreement if it gives what is no number, and OverflowError as to_half does.
    """
    graph = ir.load(folder / MODEL)
    fuse_attention(graph)
    to_half(graph, precision)
    path = folder / file_name(precision)
    ir.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    if precision == "bf16":
        emulated(graph)  # ONNX Runtime has no such kernels on a CPU
    serialised = ir.to_proto(graph).SerializeToString()
    found = measured(precision, expected, lambda images: run_logits(serialised, images), say)
    return {"engine": f"onnxruntime {onnxruntime.__version__}, CPU", "photographs": found}


def measured(
    precision: str, expected: Mapping[int, Float32Answers], run: RunImages, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """How `run` agrees with float32 at each resolution, as the manifest has it; Disagreement if it gives no numbers."""
    found = {}
    for resolution, answers in expected.items():
        compared = agreement(answers.logits, run(answers.images))
        _tell(precision, resolution, compared, say)
        found[str(resolution)] = asdict(compared)
    return found


def run_logits(graph: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ONNX Runtime on the CPU answers, (outputs, images, classes)."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
    return np.concatenate([np.stack(session.run(list(_OUTPUTS), {"image": batch})) for batch in batches], axis=1)


def _tell(precision: str, resolution: int, found: Agreement, say: Callable[[str], None]) -> None:
    say(
        f"  {precision} at {resolution}: the same best class for {found.top1:.1%} of {found.images} photographs, "
        f"logits differ from float32's by at most {found.worst:.1e}, the largest is {found.scale:.1f}"
    )
    if not np.isfinite(found.worst):
        raise Disagreement(f"{precision} gives logits that are no numbers; use another precision")
