"""Accuracy, calibration and confusions of a model on labelled images."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.commands.evaluate.error_detection import ErrorDetection, detections
from bundle.class_labels import ClassLabel
from bundle.tensors import OUTPUTS

TOP = 5
BINS = 15  # of the calibration error, as in Guo et al. 2017
_Z_95 = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations
_BEYOND_TOP = 0  # the rank of a class that is not among the best five
_UNKNOWN = -1  # the rank in an output that the answer lacks
_NO_SET = -1  # the size of a prediction set that there is none of
_ROW = np.dtype(
    [
        ("category", np.int32),
        ("best", np.int32),
        ("score", np.float64),
        ("ranks", np.int8, len(OUTPUTS)),
        ("nll", np.float64),
        ("raw_score", np.float64),
        ("raw_nll", np.float64),
        ("disagreement", np.float64),
        ("same_branches", np.bool_),
        ("set_size", np.int32),
        ("covered", np.bool_),
        ("other_rank", np.int8),
        ("same_best", np.bool_),
        ("difference", np.float64),
    ]
)


@dataclass(frozen=True, slots=True)
class Compared:
    """A second model's answer for the same image.

    Attributes:
        rank: of the true class; None beyond the best five.
        same_best: whether both models have the same best class.
        difference: the largest difference of any logit.
    """

    rank: int | None
    same_best: bool
    difference: float


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """What the logits of an image say of the answer's certainty.

    Attributes:
        raw_score: of the best class without a temperature.
        raw_nll: the negative log-likelihood without a temperature, where there is one.
        disagreement: of the branches, in bits.
        same_branches: whether the branches have the same best class.
        set_size: of the prediction set; None if there is none.
        covered: whether the set has the true class.
    """

    raw_score: float
    raw_nll: float | None
    disagreement: float
    same_branches: bool
    set_size: int | None = None
    covered: bool = False


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """A model's answer for one image.

    Attributes:
        best: the best class.
        score: its score, as it is served.
        ranks: of the true class in each of OUTPUTS, or in `logits` only; from 1, None beyond the best five.
        truth: the true class, where it is known.
        nll: the negative log-likelihood of the true class, where it is known.
        other: the second model's answer, if there is one.
        uncertainty: where the logits are known.
    """

    best: ClassLabel
    score: float
    ranks: tuple[int | None, ...]
    truth: ClassLabel | None = None
    nll: float | None = None
    other: Compared | None = None
    uncertainty: Uncertainty | None = None


@dataclass(frozen=True)
class Accuracy:
    """Shares of images, from 0 to 1."""

    top1: float
    top5: float


@dataclass(frozen=True)
class SecondModelAgreement:
    """A second model's accuracy, the share of images with the same best class, the largest difference of any logit."""

    same_best: float
    worst_difference: float
    top1: float
    top5: float


@dataclass(frozen=True)
class Bin:
    """The images whose best class has a score over `low` and up to `high`; None where there are none."""

    low: float
    high: float
    images: int
    accuracy: float | None
    confidence: float | None


@dataclass(frozen=True)
class ClassFigures:
    """The accuracy on one class of the data.

    Attributes:
        category: the class's name in the data.
        truth: the model's class; over HTTP it is None if no answer had it among its best five.
        images: number of images of the class.
        top1: share from 0 to 1.
        top5: share from 0 to 1.
        taken_for: the wrong class that most of the images were taken for.
        taken_for_images: number of these images.
    """

    category: str
    truth: ClassLabel | None
    images: int
    top1: float
    top5: float
    taken_for: ClassLabel | None
    taken_for_images: int


@dataclass(frozen=True)
class SetFigures:
    """Of prediction sets: the share that has the true class, and the mean number of classes."""

    coverage: float
    mean_size: float


@dataclass(frozen=True)
class SameBranches:
    """The share of images for which both branches have the same best class, and top-1 of these and of the others."""

    share: float
    top1: float | None
    top1_of_others: float | None


@dataclass(frozen=True)
class AccuracySummary:
    """The figures of all images; shares are from 0 to 1.

    Attributes:
        images: number of images.
        top1: share of images whose best class is the true one.
        top1_low: lower end of the 95 % interval of `top1` (Wilson 1927).
        top1_high: upper end of it.
        top5: share of images whose true class is among the best five.
        class_mean: mean of the classes' top-1.
        confidence: mean score of the best class.
        ece: expected calibration error (Guo et al. 2017): the mean difference of accuracy and confidence over `bins`
            of equal width, weighted by their images.
        nll: mean negative log-likelihood of the true class; None where the logits are not known.
        raw_ece: `ece` without a temperature, where the logits are known.
        raw_nll: `nll` without a temperature.
        sets: prediction sets, where there are any.
        same_branches: images by whether the branches have the same best class, where the logits are known.
        error_detection: how well the best class's score, the branches' agreement and both find wrong answers.
        branches: accuracy of the branches' logits, where they are known.
        against: comparison with a second model.
        bins: images by score.
        classes: figures of each class of the data, by name.
    """

    images: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float
    class_mean: float
    confidence: float
    ece: float
    nll: float | None
    raw_ece: float | None
    raw_nll: float | None
    sets: SetFigures | None
    same_branches: SameBranches | None
    error_detection: dict[str, ErrorDetection]
    branches: dict[str, Accuracy]
    against: SecondModelAgreement | None
    bins: list[Bin]
    classes: list[ClassFigures]


class PredictionTable:
    """Keeps one row per image, in 67 bytes; `summary` computes the figures of all rows."""

    def __init__(self) -> None:
        self._rows = bytearray()  # records of _ROW
        self._categories: dict[str, int] = {}  # numbered as they come
        self._truths: dict[int, ClassLabel] = {}  # by the category's number
        self._labels: dict[int, ClassLabel] = {}  # by the index of the model's class
        self._has_nll = self._has_uncertainty = True

    def add(self, category: str, prediction: ImagePrediction) -> None:
        """Add an image of the class `category`."""
        number = self._categories.setdefault(category, len(self._categories))
        best, other = prediction.best, prediction.other
        self._labels[best.index] = best
        if prediction.truth is not None:
            self._truths.setdefault(number, prediction.truth)
        self._has_nll = self._has_nll and prediction.nll is not None
        ranks = [rank or _BEYOND_TOP for rank in prediction.ranks]
        ranks += [_UNKNOWN] * (len(OUTPUTS) - len(ranks))
        row = np.zeros((), _ROW)
        row["category"], row["best"], row["score"] = number, best.index, prediction.score
        row["ranks"], row["nll"] = ranks, prediction.nll or 0.0
        row["other_rank"] = _UNKNOWN if other is None else other.rank or _BEYOND_TOP
        self._has_uncertainty = self._has_uncertainty and prediction.uncertainty is not None
        if (uncertainty := prediction.uncertainty) is not None:
            row["raw_score"], row["raw_nll"] = uncertainty.raw_score, uncertainty.raw_nll or 0.0
            row["disagreement"], row["same_branches"] = uncertainty.disagreement, uncertainty.same_branches
            row["covered"] = uncertainty.covered
            row["set_size"] = _NO_SET if uncertainty.set_size is None else uncertainty.set_size
        if other is not None:
            row["same_best"], row["difference"] = other.same_best, other.difference
        self._rows += row.tobytes()

    def summary(self) -> AccuracySummary | None:
        """The figures; None without images."""
        rows = np.frombuffer(bytes(self._rows), _ROW)
        if not len(rows):
            return None
        correct = rows["ranks"][:, 0] == 1
        overall, *branches = (_accuracy(ranks) for ranks in rows["ranks"].T)
        low, high = wilson(int(correct.sum()), len(rows))
        ece, bins = calibration_error(rows["score"], correct)
        classes = self._classes(rows, correct)
        known = self._has_uncertainty
        return AccuracySummary(
            images=len(rows),
            top1=overall.top1,
            top1_low=low,
            top1_high=high,
            top5=overall.top5,
            class_mean=float(np.mean([each.top1 for each in classes])),
            confidence=float(rows["score"].mean()),
            ece=ece,
            nll=float(rows["nll"].mean()) if self._has_nll else None,
            raw_ece=calibration_error(rows["raw_score"], correct)[0] if known else None,
            raw_nll=float(rows["raw_nll"].mean()) if known and self._has_nll else None,
            sets=_set_figures(rows[rows["set_size"] != _NO_SET]) if known else None,
            same_branches=_same_branches(rows["same_branches"], correct) if known else None,
            error_detection=detections(rows["score"], rows["disagreement"], correct) if known else {},
            branches={
                name: branch
                for name, branch, ranks in zip(OUTPUTS[1:], branches, rows["ranks"].T[1:], strict=True)
                if (ranks != _UNKNOWN).any()
            },
            against=_agreement(rows[rows["other_rank"] != _UNKNOWN]),
            bins=bins,
            classes=classes,
        )

    def _classes(self, rows: NDArray[Any], correct: NDArray[np.bool_]) -> list[ClassFigures]:
        wrong = np.stack([rows["category"], rows["best"]])[:, ~correct]
        (category, best), counts = np.unique(wrong, axis=1, return_counts=True)
        order = np.lexsort((best, -counts, category))  # of equal counts the lower index: the figures are reproducible
        _, first = np.unique(category[order], return_index=True)
        taken_for = {int(category[pair]): (self._labels[int(best[pair])], int(counts[pair])) for pair in order[first]}
        images = np.bincount(rows["category"])
        top1 = np.bincount(rows["category"], correct) / images
        top5 = np.bincount(rows["category"], rows["ranks"][:, 0] != _BEYOND_TOP) / images
        return [
            ClassFigures(
                category=name,
                truth=self._truths.get(number),
                images=int(images[number]),
                top1=float(top1[number]),
                top5=float(top5[number]),
                taken_for=taken_for[number][0] if number in taken_for else None,
                taken_for_images=taken_for[number][1] if number in taken_for else 0,
            )
            for name, number in sorted(self._categories.items())
        ]


def wilson(correct: int, images: int) -> tuple[float, float]:
    """The 95 % interval of the share `correct` / `images`. Source: Wilson 1927."""
    share, spread = correct / images, _Z_95**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = _Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def bin_of(scores: NDArray[np.float64] | float) -> NDArray[np.intp]:
    """The number of each score's bin. A bin includes its upper edge, and not its lower one."""
    return np.clip(np.ceil(np.multiply(scores, BINS)), 1, BINS).astype(np.intp) - 1


def _accuracy(ranks: NDArray[np.int8]) -> Accuracy:
    return Accuracy(float((ranks == 1).mean()), float((ranks != _BEYOND_TOP).mean()))


def _set_figures(rows: NDArray[Any]) -> SetFigures | None:
    return SetFigures(float(rows["covered"].mean()), float(rows["set_size"].mean())) if len(rows) else None


def _same_branches(same: NDArray[np.bool_], correct: NDArray[np.bool_]) -> SameBranches:
    top1, others = (float(each.mean()) if len(each) else None for each in (correct[same], correct[~same]))
    return SameBranches(float(same.mean()), top1, others)


def _agreement(rows: NDArray[Any]) -> SecondModelAgreement | None:
    if not len(rows):
        return None
    other = _accuracy(rows["other_rank"])
    return SecondModelAgreement(
        float(rows["same_best"].mean()), float(rows["difference"].max()), other.top1, other.top5
    )


def calibration_error(scores: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[float, list[Bin]]:
    """The expected calibration error, and its bins."""
    number = bin_of(scores)
    images = np.bincount(number, minlength=BINS)
    correct_sum, score_sum = (np.bincount(number, values, minlength=BINS) for values in (correct, scores))
    bins = [
        Bin(low / BINS, (low + 1) / BINS, int(count), right / count, score / count)
        if count
        else Bin(low / BINS, (low + 1) / BINS, 0, None, None)
        for low, (count, right, score) in enumerate(zip(images, correct_sum, score_sum, strict=True))
    ]
    return float(np.abs(correct_sum - score_sum).sum() / len(scores)), bins
