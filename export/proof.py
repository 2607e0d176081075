"""The proof that ends an export: ONNX Runtime must give the logits that PyTorch gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.agreement import Disagreement
from export.graph import INPUT, OUTPUTS, Served

BATCH = 3


def pictures(side: int, count: int = BATCH) -> NDArray[np.uint8]:
    """Smooth shapes with texture on them, (count, side, side, 3); the same ones at every call."""
    rng = np.random.default_rng(side)
    y, x = np.mgrid[0:side, 0:side][..., None, None] / side  # each (side, side, 1, 1)
    frequency = rng.uniform(1, 8, (2, count, 3))
    phase = rng.uniform(0, 2 * np.pi, (2, count, 3))
    waves = np.sin(2 * np.pi * frequency[0] * x + phase[0]) + np.cos(2 * np.pi * frequency[1] * y + phase[1])
    noise = rng.normal(0, 12, waves.shape)
    pixels = np.clip(np.round(127.5 + 60 * waves + noise), 0, 255).astype(np.uint8)  # (side, side, count, 3)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1, 3))


@dataclass(frozen=True)
class Reference:
    """Images (batch, side, side, 3), and PyTorch's logits for them (outputs, batch, classes), float32."""

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]


def references(served: Served, sides: dict[int, int]) -> dict[int, Reference]:
    """What PyTorch answers for three pictures at each resolution in `sides` (resolution to pixels)."""
    found = {}
    for resolution, side in sides.items():
        images = pictures(side)
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
