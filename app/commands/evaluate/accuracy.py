"""The figures, counted image by image: what is kept does not grow with the images."""

import math
from collections import Counter
from dataclasses import dataclass, field

from bundle.class_labels import ClassLabel
from bundle.tensors import OUTPUTS

TOP = 5
BINS = 15  # of the calibration error, as in Guo et al. 2017
_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


@dataclass(frozen=True, slots=True)
class Compared:
    """A second model's answer beside the first one's: `difference` is the largest of any logit."""

    rank: int | None
    same_best: bool
    difference: float


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """What is kept of an answer: its best class with the score, and the truth's rank in each output.

    Ranks count from 1, and are None beyond the best five. `outputs` is as OUTPUTS, or has `logits` alone. `truth` and
    the negative log-likelihood `nll` are there where they are known.
    """

    best: ClassLabel
    score: float
    ranks: tuple[int | None, ...]
    truth: ClassLabel | None = None
    nll: float | None = None
    other: Compared | None = None


@dataclass(frozen=True)
class Accuracy:
    top1: float
    top5: float


@dataclass(frozen=True)
class SecondModelAgreement:
    """With the second model: the share of images with the same best class, the largest difference of any logit."""

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
    """A class of the data, and the wrong class that most of its images were taken for.

    `truth` is the model's class; over HTTP it is None if no answer had it among its best five.
    """

    category: str
    truth: ClassLabel | None
    images: int
    top1: float
    top5: float
    taken_for: ClassLabel | None
    taken_for_images: int


@dataclass(frozen=True)
class AccuracySummary:
    """Shares are from 0 to 1. `top1_low` and `top1_high` are the 95 % interval (Wilson 1927).

    `class_mean` is the mean of the classes' top-1. `ece` is the expected calibration error (Guo et al. 2017): the mean
    difference of accuracy and confidence over `bins` of equal width, weighted by their images. `nll` is the mean
    negative log-likelihood of the truth, None where the logits are not known.
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
    branches: dict[str, Accuracy]
    against: SecondModelAgreement | None
    bins: list[Bin]
    classes: list[ClassFigures]


@dataclass
class _Hits:
    images: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, rank: int | None) -> None:
        self.images += 1
        self.top1 += rank == 1
        self.top5 += rank is not None

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy(self.top1 / self.images, self.top5 / self.images)


@dataclass
class _Class(_Hits):
    truth: ClassLabel | None = None
    taken_for: Counter[int] = field(default_factory=Counter)


@dataclass
class _Bin:
    images: int = 0
    right: int = 0
    confidence: float = 0.0


@dataclass
class _Other(_Hits):
    same: int = 0
    worst: float = 0.0


class Tally:
    """Takes what was seen of each image with `add`; `figures` are of all so far."""

    def __init__(self) -> None:
        self._outputs = [_Hits() for _ in OUTPUTS]
        self._classes: dict[str, _Class] = {}
        self._bins = [_Bin() for _ in range(BINS)]
        self._nll: float | None = 0.0
        self._other = _Other()
        self._labels: dict[int, ClassLabel] = {}

    def add(self, category: str, seen: ImagePrediction) -> None:
        """Count an image of the class `category`."""
        for hits, rank in zip(self._outputs, seen.ranks, strict=False):
            hits.add(rank)
        self._add_to_class(self._classes.setdefault(category, _Class()), seen)
        bin_ = self._bins[bin_of(seen.score)]
        bin_.images += 1
        bin_.right += seen.ranks[0] == 1
        bin_.confidence += seen.score
        self._nll = None if self._nll is None or seen.nll is None else self._nll + seen.nll
        if seen.other is not None:
            self._other.add(seen.other.rank)
            self._other.same += seen.other.same_best
            self._other.worst = max(self._other.worst, seen.other.difference)

    def figures(self) -> AccuracySummary | None:
        """None before the first image."""
        images = self._outputs[0].images
        if not images:
            return None
        all_, *branches = self._outputs
        classes = [_of_class(category, each, self._labels) for category, each in sorted(self._classes.items())]
        low, high = wilson(all_.top1, images)
        return AccuracySummary(
            images,
            all_.accuracy.top1,
            low,
            high,
            all_.accuracy.top5,
            class_mean=sum(each.top1 for each in classes) / len(classes),
            confidence=sum(each.confidence for each in self._bins) / images,
            ece=sum(abs(each.right - each.confidence) for each in self._bins) / images,
            nll=None if self._nll is None else self._nll / images,
            branches={name: hits.accuracy for name, hits in zip(OUTPUTS[1:], branches, strict=True) if hits.images},
            against=self._against(),
            bins=[_of_bin(number, each) for number, each in enumerate(self._bins)],
            classes=classes,
        )

    def _add_to_class(self, into: _Class, seen: ImagePrediction) -> None:
        into.add(seen.ranks[0])
        into.truth = into.truth or seen.truth
        if seen.ranks[0] != 1:
            into.taken_for[seen.best.index] += 1
            self._labels[seen.best.index] = seen.best

    def _against(self) -> SecondModelAgreement | None:
        other = self._other
        if not other.images:
            return None
        return SecondModelAgreement(other.same / other.images, other.worst, other.accuracy.top1, other.accuracy.top5)


def wilson(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share, of which `right` in `images` were seen. Source: Wilson 1927."""
    share, spread = right / images, _Z**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def bin_of(score: float) -> int:
    """The bin of `score`; a bin has its upper edge, and not its lower one."""
    return min(BINS, max(1, math.ceil(score * BINS))) - 1


def _of_bin(number: int, counted: _Bin) -> Bin:
    low, high = number / BINS, (number + 1) / BINS
    if not counted.images:
        return Bin(low, high, 0, None, None)
    return Bin(low, high, counted.images, counted.right / counted.images, counted.confidence / counted.images)


def _of_class(category: str, counted: _Class, labels: dict[int, ClassLabel]) -> ClassFigures:
    # Of equally many the one with the lower index, so that the same answers always give the same figures.
    index, images = min(counted.taken_for.items(), key=lambda item: (-item[1], item[0]), default=(-1, 0))
    accuracy = counted.accuracy
    return ClassFigures(
        category, counted.truth, counted.images, accuracy.top1, accuracy.top5, labels.get(index), images
    )
