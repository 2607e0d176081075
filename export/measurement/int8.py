"""A bundle's graph in 8 bits: calibrated, written, described.

export.measurement.openvino_precisions measures it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from bundle.file_names import GRAPHS, MODEL
from bundle.manifest import Quantization
from bundle.precisions import INT8
from export.graphs.quantization_recipe import (
    CALIBRATION_VIEWS,
    CALIBRATION_VIEWS_ELSEWHERE,
    KEPT_IN_FLOAT32,
    SMOOTH_QUANT_ALPHA,
    installed_version,
)
from export.graphs.quantize import quantize_graph
from export.measurement.photos import PhotoSet, crops
from model.spec import Preprocessing


def add_int8(
    folder: Path, preprocessing: Mapping[int, Preprocessing], photos: PhotoSet, say: Callable[[str], None]
) -> Quantization:
    """Write the graph of the bundle in `folder` in 8 bits, calibrated on `photos`. Raises NoPhotos and NotInstalled."""
    least = min(preprocessing, key=lambda resolution: preprocessing[resolution].crop)
    counts = {
        resolution: CALIBRATION_VIEWS if resolution == least else CALIBRATION_VIEWS_ELSEWHERE
        for resolution in preprocessing
    }
    say(f"writing the graph in int8, calibrated on {sum(counts.values())} views of photographs …")
    views = [
        view[None]
        for resolution, steps in preprocessing.items()
        for view in crops(steps, counts[resolution], photos.files)
    ]
    graph = quantize_graph(folder / MODEL, views)
    path = folder / GRAPHS[INT8]
    ir.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    return Quantization(
        made_by=installed_version("nncf"),
        measured_by=installed_version("openvino"),
        photographs=photos.for_manifest(max(counts.values())),
        views=counts,
        smooth_quant_alpha=SMOOTH_QUANT_ALPHA,
        kept_in_float32=KEPT_IN_FLOAT32,
    )
