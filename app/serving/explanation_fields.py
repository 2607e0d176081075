"""Explanations and embeddings as the JSON that the service and the command line give."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.decoding.overlay_bounds import Grid
from app.inspection.inspector import InspectedImage
from app.serving.explained_classes import ExplainedClass, explained_classes
from app.serving.model_inspection import InspectionAnswer
from bundle.class_labels import ClassLabel
from bundle.reader import Bundle
from model.crop_windows import crop_region

BranchChoice = Literal["both", "small", "large"]
MapKind = Literal["contributions", "attention"]
MOST_EXPLAINED = 5  # classes of an image

_DIGITS = 7  # after the decimal point, of the numbers in maps and embeddings


def explanation_fields(
    bundle: Bundle, resolution: int, answer: InspectionAnswer, temperature: float = 1.0
) -> dict[str, Any]:
    """The explanations, the attention and the picture's geometry; scores are those of logits / `temperature`."""
    assert answer.image.attention is not None
    assert answer.size is not None
    explained = explained_classes(answer.image, bundle.manifest.activation, temperature)
    small, large = answer.image.attention
    width, height = answer.size
    crop = crop_region(answer.size, bundle.manifest.preprocessing[resolution])
    return {
        "explanations": [_explained(bundle.labels, each) for each in explained],
        "attention": {"small": rounded(small), "large": rounded(large)},
        "picture": {
            "width": width,
            "height": height,
            "crop": {name: round(value, 2) for name, value in vars(crop).items()},
        },
    }


def drawn_grids(image: InspectedImage, kind: MapKind, branch: BranchChoice) -> list[Grid]:
    """The grids of `kind`, contributions being those to the first class, and of one `branch` or both."""
    assert image.attention is not None
    pair = (image.maps[0].small, image.maps[0].large) if kind == "contributions" else image.attention
    chosen = {"both": pair, "small": pair[:1], "large": pair[1:]}[branch]
    return [grid.tolist() for grid in chosen]


def with_length_one(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """`vector` divided by its Euclidean length; zeros stay."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / length).astype(np.float32) if length else vector


def rounded(numbers: NDArray[np.float32]) -> Any:
    """`numbers` in lists, for JSON; more digits would not be of float32."""
    return np.round(numbers.astype(np.float64), _DIGITS).tolist()


def _explained(labels: Sequence[ClassLabel], explained: ExplainedClass) -> dict[str, Any]:
    label = labels[explained.maps.index]
    grids = {"small": explained.maps.small, "large": explained.maps.large}
    return {
        "rank": explained.rank,
        "index": label.index,
        "wnid": label.wnid,
        "label": label.label,
        "score": explained.score,
        "logit": explained.logit,
        "contributions": {
            name: {"grid": rounded(grid), "sum": total, "share": share}
            for (name, grid), total, share in zip(grids.items(), explained.sums, explained.shares, strict=True)
        },
    }
