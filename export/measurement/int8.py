"""A bundle's graph in 8 bits: calibrated, written and described. It is measured by export.measurement.openvino_precisions."""

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from bundle.writer import MODEL, sha256
from export.graphs.quantize import KEPT, quantized
from export.measurement.photos import crops, photographs
from export.measurement.precision import file_name
from model.spec import Preprocessing

IMAGES = 24  # views of photographs to calibrate on at the least resolution, and at each of the others:
OTHERS = 2


def calibration_id(folder: Path | None) -> str:
    """A sha256 that tells the photographs to calibrate on from others; NoPhotos."""
    digest = hashlib.sha256()
    for path in photographs(folder)[-IMAGES:]:
        digest.update(sha256(path).encode())
    return digest.hexdigest()


def add_int8(
    folder: Path, preprocessing: Mapping[int, Preprocessing], photos: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write the graph of the bundle in `folder` in 8 bits; what the manifest says of it. NoPhotos, NotInstalled."""
    least = min(preprocessing, key=lambda resolution: preprocessing[resolution].crop)
    counts = {resolution: IMAGES if resolution == least else OTHERS for resolution in preprocessing}
    if photos is None:
        say("note: int8 is calibrated on the few photographs that ship; --calibration with one's own is better")
    say(f"writing the graph in int8, calibrated on {sum(counts.values())} views of photographs …")
    views = [
        view[None] for resolution, steps in preprocessing.items() for view in crops(steps, counts[resolution], photos)
    ]
    graph = quantized(folder / MODEL, views)
    path = folder / file_name("int8")
    ir.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    return {
        "made_by": f"nncf {version('nncf')}",
        "measured_by": f"openvino {version('openvino')}",
        "photographs": "shipped" if photos is None else str(photos),
        "photographs_sha256": calibration_id(photos),
        "views": {str(resolution): count for resolution, count in counts.items()},
        "kept_in_float32": list(KEPT),
    }
