"""Prediction sets: the fewest best classes that hold the true one with a given coverage, by a fitted threshold.

Source: regularised adaptive prediction sets (RAPS), Angelopoulos et al., "Uncertainty Sets for Image Classifiers using
Conformal Prediction", 2021, section 2. There the class at the edge of the set is in it by chance, with a random share u
of its probability; here u is 1/2 for every image, so that an image has the same set each time. The coverage holds for
any fixed u.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SHARE_OF_CLASS = 0.5  # u


@dataclass(frozen=True)
class RankPenalty:
    """What makes sets smaller where many classes have about the same score: each rank beyond `free` costs `penalty`."""

    penalty: float
    free: int


def nonconformity(descending: NDArray[np.floating], penalty: RankPenalty) -> NDArray[np.float64]:
    """How far each class is from being the answer, of scores (…, classes) with the largest first; it never falls."""
    wide = descending.astype(np.float64)
    before = np.cumsum(wide, axis=-1) - wide
    ranks = np.arange(1, wide.shape[-1] + 1)
    costs = penalty.penalty * np.maximum(0, ranks - penalty.free)
    found: NDArray[np.float64] = before + _SHARE_OF_CLASS * wide + costs
    return found


def set_sizes(nonconformities: NDArray[np.float64], threshold: float) -> NDArray[np.intp]:
    """How many of the best classes are in the set, at least one, of what `nonconformity` gave: (…, classes) to (…)."""
    sizes: NDArray[np.intp] = np.maximum(1, (nonconformities <= threshold).sum(axis=-1))
    return sizes


def coverage_threshold(nonconformities: NDArray[np.float64], coverage: float) -> float | None:
    """The threshold of `coverage`, from the `nonconformity` of the true class of each image (images,).

    Sets with it hold the true class of a further image of the same kind with at least this probability, on average over
    choices of these images. None if there are too few images for that.
    """
    count = len(nonconformities)
    rank = math.ceil((count + 1) * coverage - 1e-9)  # 1e-9: 100 * 0.07 is over 7
    return float(np.partition(nonconformities, rank - 1)[rank - 1]) if rank <= count else None
