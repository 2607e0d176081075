"""A bundle's graph in 8 bits: calibrated, written, described.

export.measurement.openvino_precisions measures it.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
import onnx_ir as ir

from bundle.file_names import GRAPHS, MODEL
from bundle.manifest import Quantization
from bundle.precisions import INT8
from export.graphs.quantize import KEPT_IN_FLOAT32, SMOOTH_QUANT_ALPHA, quantize_graph
from export.measurement.photos import PhotoSet, crops
from model.spec import Preprocessing

CALIBRATION_VIEWS = 24  # at the least resolution
CALIBRATION_VIEWS_ELSEWHERE = 2  # at each of the others


def is_current(made: Quantization | None) -> bool:
    """Whether a graph in 8 bits was made as this version makes it, by what is installed, if it is."""
    if made is None or (made.smooth_quant_alpha, made.kept_in_float32) != (SMOOTH_QUANT_ALPHA, KEPT_IN_FLOAT32):
        return False
    try:
        return (made.made_by, made.measured_by) == (_installed("nncf"), _installed("openvino"))
    except PackageNotFoundError:
        return True  # it cannot be made again here


def _installed(package: str) -> str:
    return f"{package} {version(package)}"


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
        made_by=_installed("nncf"),
        measured_by=_installed("openvino"),
        photographs=photos.for_manifest(max(counts.values())),
        views=counts,
        smooth_quant_alpha=SMOOTH_QUANT_ALPHA,
        kept_in_float32=KEPT_IN_FLOAT32,
    )
