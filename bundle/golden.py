"""Golden images: what a bundle recorded of its network's answers, and how far an engine may be from them."""

from dataclasses import dataclass

import numpy as np

from bundle.tensors import Images, Outputs

# The distance of the logits as a vector, relative to its length. Rounding moves it by 0.0009 to 0.0012 in float16, by
# 0.009 to 0.010 in bfloat16 (crossvit_tiny, 9_dagger and 18_dagger, weights by a rule). What is above that is room for
# trained weights, and for products that are summed in 16 bits; but one LayerNorm or GELU left out of 9_dagger or
# 18_dagger moves it by 0.05 to 0.3, another image by 0.17. 8 bits in OpenVINO move it by 0.023 to 0.031, with or
# without bfloat16 beside them (9_dagger with the trained weights that ship, 9_dagger and 18_dagger by a rule, at 224,
# 384 and 480, on the photographs that bundles record).
TOLERANCE = {"f32": 1e-3, "fp16": 0.02, "bf16": 0.04, "int8": 0.1, "int8-bf16": 0.1}


@dataclass(frozen=True)
class Golden:
    """Images of one resolution, and the logits that the bundle recorded for them."""

    images: Images
    logits: Outputs


def mismatch(golden: Golden, actual: Outputs, precision: str) -> str | None:
    """What is wrong with an engine of `precision` that answers the golden images with `actual`; None if nothing is."""
    if actual.shape != golden.logits.shape:
        return f"logits of the shape {actual.shape} instead of {golden.logits.shape}"
    distance = np.linalg.norm(actual - golden.logits) / max(float(np.linalg.norm(golden.logits)), 1e-6)
    if not distance <= TOLERANCE[precision]:  # not a number fails too
        return f"logits {distance:.1e} off the recorded ones, over {TOLERANCE[precision]:.1e} for {precision}"
    return None
