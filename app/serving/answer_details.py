"""What an answer tells beside its best classes, where it is asked for: a prediction set, and the branches' answers."""

from dataclasses import dataclass

import numpy as np

from app.errors import NotCalibrated
from bundle.calibration import CoverageThreshold, ScoreCalibration
from bundle.disagreement import branch_disagreement
from bundle.prediction_sets import nonconformity, set_sizes
from bundle.scores import best_classes
from bundle.tensors import Outputs
from model.spec import SIGMOID, Activation

IndexedScore = tuple[int, float]  # of a class


@dataclass(frozen=True)
class CoveringSet:
    """The classes of which one is the true one with at least the probability `coverage`, the best first."""

    coverage: float
    classes: list[IndexedScore]


@dataclass(frozen=True)
class BranchAnswers:
    """The best class of each branch by its own logits, and how much their scores differ, in bits from 0 to 1."""

    small: IndexedScore
    large: IndexedScore
    disagreement: float


def fitted_threshold(
    calibration: ScoreCalibration | None, coverage: float, activation: Activation, command: str
) -> tuple[ScoreCalibration, CoverageThreshold]:
    """The calibration and its threshold for `coverage`. NotCalibrated if there is none; `command` would make one."""
    if activation == SIGMOID:
        raise NotCalibrated(
            "coverage is for classes that exclude each other, and this model's scores are sigmoids: each is the "
            "probability of its own class"
        )
    if calibration is None:
        raise NotCalibrated(f"coverage needs a calibration of this model's scores, and there is none: {command}")
    threshold = calibration.sets.at(coverage) if calibration.sets else None
    if threshold is None:
        fitted = calibration.sets.thresholds if calibration.sets else ()
        most = f"; up to {fitted[-1].coverage:g} can be had" if fitted else ""
        raise NotCalibrated(
            f"coverage={coverage:g} needs more than the {calibration.images} images that the scores were calibrated "
            f"on{most}: {command}"
        )
    return calibration, threshold


def covering_set(outputs: Outputs, calibration: ScoreCalibration, threshold: CoverageThreshold) -> CoveringSet:
    """The prediction set of an image's logits (outputs, classes), whose scores are softmax."""
    assert calibration.sets is not None
    classes = best_classes(outputs[0], outputs.shape[1], temperature=calibration.temperature)
    descending = np.array([score for _, score in classes])
    size = int(set_sizes(nonconformity(descending, calibration.sets.rank_penalty), threshold.threshold))
    return CoveringSet(threshold.coverage, classes[:size])


def branch_answers(outputs: Outputs, activation: Activation) -> BranchAnswers:
    """What each branch says by itself, of an image's logits (outputs, classes); no temperature was fitted to these."""
    _, small, large = outputs
    (best_small,), (best_large,) = (best_classes(logits, 1, activation) for logits in (small, large))
    return BranchAnswers(best_small, best_large, float(branch_disagreement(small, large, activation)))
