"""The golden images of a bundle: photographs that ship with the project, and the logits that a reference gives."""

from collections.abc import Mapping

from bundle.golden import Golden
from export.measurement.onnx_sessions import RunImages
from export.measurement.photos import SHIPPED, photographs, views
from model.spec import Preprocessing

GOLDEN_IMAGES = 3
BATCHES = (1, GOLDEN_IMAGES)  # that graphs are compared with PyTorch in


def golden_answers(reference: RunImages, preprocessing: Mapping[int, Preprocessing]) -> dict[int, Golden]:
    """Three photographs at each resolution, and the answers of `reference`.

    For pictures made by code a graph in 8 bits, which is calibrated on photographs, would be off by five times as much.
    """
    golden = {}
    for resolution, steps in preprocessing.items():
        images = views(steps, GOLDEN_IMAGES, photographs(SHIPPED))
        golden[resolution] = Golden(images, reference(images))
    return golden
