"""Golden images: the logits that a bundle records for some images, and how far an engine's may be from them."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from bundle.bundle_errors import BadBundle
from bundle.file_names import GOLDEN
from bundle.precisions import BF16, F32, FP16, INT8, INT8_BF16
from bundle.tensors import OUTPUTS, Images, Outputs
from model.spec import Preprocessing

# The distance of the logits as a vector, relative to its length. Rounding moves it by 0.0009 to 0.0012 in float16, by
# 0.009 to 0.010 in bfloat16 (crossvit_tiny, 9_dagger and 18_dagger, weights by a rule). What is above that is room for
# trained weights, and for products that are summed in 16 bits; but one LayerNorm or GELU left out of 9_dagger or
# 18_dagger moves it by 0.05 to 0.3, another image by 0.17. 8 bits in OpenVINO move it by 0.009 to 0.011, with or
# without bfloat16 beside them (9_dagger with the trained weights that ship, at 224, 384 and 480), and by 0.017 to 0.018
# (crossvit_tiny by a rule).
TOLERANCE = {F32: 1e-3, FP16: 0.02, BF16: 0.04, INT8: 0.05, INT8_BF16: 0.05}


@dataclass(frozen=True)
class Golden:
    """Images of one resolution, and the logits that are expected for them."""

    images: Images
    logits: Outputs


def mismatch(golden: Golden, actual: Outputs, precision: str) -> str | None:
    """How `actual`, the answer of an engine of `precision` to the golden images, is wrong; None if it is right."""
    if actual.shape != golden.logits.shape:
        return f"logits of the shape {actual.shape} instead of {golden.logits.shape}"
    distance = np.linalg.norm(actual - golden.logits) / max(float(np.linalg.norm(golden.logits)), 1e-6)
    if not distance <= TOLERANCE[precision]:  # NaN fails too
        return f"logits {distance:.1e} off the recorded ones, over {TOLERANCE[precision]:.1e} for {precision}"
    return None


def write_golden(folder: Path, golden: Mapping[int, Golden]) -> None:
    """Write golden.npz into `folder`, with two arrays for each resolution: `images_224`, `logits_224`."""
    arrays: dict[str, Any] = {}
    for resolution, recorded in golden.items():
        arrays[_images(resolution)] = recorded.images
        arrays[_logits(resolution)] = recorded.logits
    np.savez_compressed(folder / GOLDEN, **arrays)


def parse_golden(
    content: bytes, path: Path, preprocessing: Mapping[int, Preprocessing], classes: int
) -> dict[int, Golden]:
    """The golden images of each resolution, read from `path`. Raises BadBundle if their shapes are others."""
    golden = {}
    try:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            for resolution, steps in preprocessing.items():
                images, logits = arrays[_images(resolution)], arrays[_logits(resolution)]
                expected = (len(images), steps.crop, steps.crop, 3)
                if images.shape != expected or logits.shape != (len(OUTPUTS), len(images), classes):
                    raise ValueError(f"the shapes at {resolution} do not fit the manifest")
                golden[resolution] = Golden(images.astype(np.uint8), logits.astype(np.float32))
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as err:
        raise BadBundle(f"{path}: {err}; export the bundle again") from err
    return golden


def _images(resolution: int) -> str:
    return f"images_{resolution}"


def _logits(resolution: int) -> str:
    return f"logits_{resolution}"
