"""The inspection graph in ONNX Runtime compared with PyTorch, contributions with its autograd."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bundle.inspection import INSPECTION_OUTPUTS
from bundle.tensors import Images
from export.graphs.inspected_network import Inspected
from export.measurement.autograd_contributions import autograd_contributions
from export.measurement.comparison import Disagreement
from export.measurement.golden_images import BATCHES
from export.measurement.onnx_sessions import inspection_session

_COMPARED_CLASSES = 2


def inspection_difference(inspected: Inspected, images: Images, graph: Path | bytes, tolerance: float) -> float:
    """The largest difference of any output of `graph` from PyTorch's `inspected`, for the best classes of `images`.

    The difference of an output may be `tolerance`, times its largest value where that is over 1. Raises Disagreement
    beyond it.
    """
    expected, classes = _pytorch_outputs(inspected, images)
    run = inspection_session(graph)
    worst = 0.0
    for size in BATCHES:
        actual = run(images[:size], classes[:size])
        for name, wanted, found in zip(INSPECTION_OUTPUTS, expected, actual, strict=True):
            difference = float(np.abs(found - wanted[:size]).max())
            if not difference <= tolerance * max(1.0, float(np.abs(wanted).max())):  # NaN fails too
                raise Disagreement(f"{name} of the inspection graph differs from PyTorch by {difference:.1e}")
            worst = max(worst, difference)
    return worst


def _pytorch_outputs(inspected: Inspected, images: Images) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """The outputs, in the order of INSPECTION_OUTPUTS, and the classes that are explained: the best ones."""
    pixels = torch.from_numpy(images)
    with torch.no_grad():
        normalized = inspected.normalized(pixels)
        count = min(_COMPARED_CLASSES, inspected.network.classes)
        classes = inspected.network(normalized).topk(count).indices
        *outputs, _, _ = inspected(pixels, classes)
    outputs += autograd_contributions(inspected.network, normalized, classes)
    return [output.numpy() for output in outputs], classes.numpy()
