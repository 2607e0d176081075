"""The proof that ends an export: ONNX Runtime must give the logits that PyTorch gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from bundle.tensors import INPUT, OUTPUTS
from export.graphs.served import Served
from export.measurement.agreement import Disagreement
from export.measurement.photos import views
from model.spec import Preprocessing

BATCH = 3
ENGINE = f"onnxruntime {onnxruntime.__version__}"  # the one that proves


@dataclass(frozen=True)
class Reference:
    """Images (batch, side, side, 3), and PyTorch's logits for them (outputs, batch, classes), float32."""

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]


def references(served: Served, preprocessing: Mapping[int, Preprocessing]) -> dict[int, Reference]:
    """What PyTorch answers for three photographs at each resolution.

    For pictures made by code a graph in 8 bits, which is calibrated on photographs, would be off by five times as much.
    """
    found = {}
    for resolution, steps in preprocessing.items():
        images = views(steps, BATCH)
        with torch.inference_mode():
            found[resolution] = Reference(images, torch.stack(served(torch.from_numpy(images))).numpy())
    return found


def worst_differences(
    expected: dict[int, Reference], graph: Path, tolerance: float, say: Callable[[str], None]
) -> dict[int, float]:
    """For each resolution the worst absolute difference of any logit.

    The graph runs in ONNX Runtime at batch 1 and 3. Logits are compared at their own scale: the difference may be
    `tolerance`, times the largest logit where that is over 1, since float32 has no more digits. Raises Disagreement
    beyond it.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    worst = {}
    for resolution, reference in expected.items():
        differences = [
            float(np.abs(np.stack(session.run(list(OUTPUTS), {INPUT: reference.images[:size]})) - logits).max())
            for size in (1, BATCH)
            for logits in [reference.logits[:, :size]]
        ]
        worst[resolution] = max(differences)
        scale = max(1.0, float(np.abs(reference.logits).max()))
        say(
            f"  {resolution}: logits differ from PyTorch by at most {worst[resolution]:.1e}, the largest is {scale:.1f}"
        )
        if not worst[resolution] <= tolerance * scale:  # not a number fails too
            raise Disagreement(
                f"logits differ from PyTorch by {worst[resolution]:.1e} at resolution {resolution}, over "
                f"{tolerance:.0e} of their scale {scale:.1f}"
            )
    return worst


def record(expected: dict[int, Reference], path: Path) -> None:
    """Write the images and logits to an .npz file: `images_224`, `logits_224`, and so on."""
    arrays: dict[str, Any] = {}
    for resolution, reference in expected.items():
        arrays |= {f"images_{resolution}": reference.images, f"logits_{resolution}": reference.logits}
    np.savez_compressed(path, **arrays)
