"""Golden images: what a bundle recorded of its network's answers, and how far an engine may be from them."""

from dataclasses import dataclass

import numpy as np

from app.engines.engine import Images, Outputs

# The distance of the logits as a vector, relative to its length. Rounding to bfloat16 in every layer moves it by a few
# percent; a wrong kernel, layout or weight moves it by far more.
TOLERANCE = {"f32": 1e-3, "bf16": 0.15}


@dataclass(frozen=True)
class Golden:
    """Images of one resolution, and the logits that the bundle recorded for them."""

    images: Images
    logits: Outputs


def fault(golden: Golden, actual: Outputs, precision: str) -> str | None:
    """What is wrong with an engine of `precision` that answers the golden images with `actual`; None if nothing is."""
    if actual.shape != golden.logits.shape:
        return f"logits of the shape {actual.shape} instead of {golden.logits.shape}"
    distance = np.linalg.norm(actual - golden.logits) / max(float(np.linalg.norm(golden.logits)), 1e-6)
    if not distance <= TOLERANCE[precision]:  # not a number fails too
        return f"logits {distance:.1e} off the recorded ones, over {TOLERANCE[precision]:.1e} for {precision}"
    return None
