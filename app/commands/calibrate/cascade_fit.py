"""Fits the threshold of a cascade: which answers of the cheap step are good enough."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.commands.evaluate.error_detection import Correct
from app.errors import BadParameter

_FOLDS = 5  # of cross-fitting


@dataclass(frozen=True)
class CascadeGoal:
    """What a cascade is for: to lose at most `accuracy_loss` (0 to 1) against the dear step alone, or to send at most
    `share` of the images on to it. One of them is None."""

    accuracy_loss: float | None = None
    share: float | None = None

    def __str__(self) -> str:
        if self.share is not None:
            return f"at most {100 * self.share:g} % of the images of the fit to the second step"
        points = f"{100 * (self.accuracy_loss or 0):g} points"
        return f"at most {points} less accurate than the second step alone, on the images of the fit"


@dataclass(frozen=True)
class FittedCascade:
    """The threshold that all images gave, and the cross-fitted accuracy and share that the first step answers."""

    threshold: float
    accuracy: float
    answered_by_first: float


def fit_cascade(scores: NDArray[np.float64], first: Correct, second: Correct, goal: CascadeGoal) -> FittedCascade:
    """The threshold of the first step's `scores` of best classes (images,), from which on it answers itself.

    `first` and `second` say which images each step is right about. The figures are of folds of images whose threshold
    the others gave. Raises BadParameter if the first step can answer none for this goal.
    """
    threshold = _threshold(scores, first, second, goal)
    folds = np.random.default_rng(0).permutation(len(scores)) % _FOLDS
    answered = np.zeros(len(scores), np.bool_)
    for fold in range(_FOLDS):
        inside = folds == fold
        answered[inside] = scores[inside] >= _threshold(scores[~inside], first[~inside], second[~inside], goal)
    if not answered.any() or threshold > scores.max():
        raise BadParameter(
            f"no threshold does for {goal}: the first step would answer no image; it is right about "
            f"{100 * first.mean():.2f} % of them, and the second about {100 * second.mean():.2f} %"
        )
    return FittedCascade(threshold, float(np.where(answered, first, second).mean()), float(answered.mean()))


def _threshold(scores: NDArray[np.float64], first: Correct, second: Correct, goal: CascadeGoal) -> float:
    """The least threshold that meets the goal on these images, and so does every higher one."""
    order = np.argsort(scores, kind="stable")
    count = len(order)
    if goal.share is not None:
        sent_on = int(goal.share * count)
    else:
        assert goal.accuracy_loss is not None
        # What is gained or lost by sending on the k images of the least scores, k = 0 … count.
        gained = np.concatenate([[0], np.cumsum(second[order].astype(int) - first[order])])
        lost = (gained[-1] - gained) / count
        failing = np.flatnonzero(lost > goal.accuracy_loss + 1e-12)
        sent_on = int(failing[-1]) + 1 if len(failing) else 0
    if not sent_on:
        return 0.0
    ordered = scores[order]
    return float(ordered[sent_on]) if sent_on < count else float(np.nextafter(ordered[-1], np.inf))
