"""Fits a calibration to logits of labelled images, and measures it on images that it was not fitted to."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.commands.calibrate.temperature_fit import Logits, Truths, fit_temperature
from app.commands.evaluate.accuracy import calibration_error
from app.errors import BadParameter
from bundle.calibration import COVERAGES, CoverageThreshold, SetThresholds
from bundle.prediction_sets import RankPenalty, coverage_threshold, nonconformity, set_sizes
from bundle.scores import scores
from model.spec import SOFTMAX, Activation

LEAST_IMAGES = 300
_FOLDS = 5  # of cross-fitting
_TUNED_COVERAGE = 0.9  # at which the penalty gives the smallest sets
_PENALTIES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
_FREE_RANKS = (1, 5, 20)


@dataclass(frozen=True)
class ScoreFit:
    """What was fitted to all images; the figures are of cross-fitting.

    Attributes:
        temperature: of the scores; 1 where the one that was found makes the likelihood of images that were left out
            worse.
        sets: what prediction sets need; None for sigmoid scores.
        images: how many there are.
        top1: share of images whose best class is the true one.
        ece_before: expected calibration error without a temperature.
        ece_after: with the temperature that was fitted to the other folds.
        nll_before: mean negative log-likelihood; None for sigmoid scores.
        nll_after: likewise.
    """

    temperature: float
    sets: SetThresholds | None
    images: int
    top1: float
    ece_before: float
    ece_after: float
    nll_before: float | None
    nll_after: float | None


@dataclass(frozen=True)
class _Fitted:
    temperature: float
    penalty: RankPenalty | None
    thresholds: dict[float, float]  # by coverage


def fit_scores(logits: Logits, truths: Truths, activation: Activation) -> ScoreFit:
    """Fit to all images, and cross-fit for the figures: each fifth of the images is measured with what was fitted to
    the other four. BadParameter for too few images.

    The images should be in an order without a pattern; the first half of them tunes the temperature and the penalty of
    sets, the second half gives their thresholds.
    """
    check_images(len(truths))
    raw = _Measured(activation)
    raw.add(logits, truths, _Fitted(1.0, None, {}))
    fitted, held_out = _cross_fitted(logits, truths, activation)
    if raw.nll is not None and held_out.nll is not None and held_out.nll > raw.nll:
        fitted, held_out = _cross_fitted(logits, truths, activation, temperature=1.0)
    return ScoreFit(
        temperature=fitted.temperature,
        sets=_set_thresholds(fitted, held_out),
        images=len(truths),
        top1=raw.top1,
        ece_before=raw.ece,
        ece_after=held_out.ece,
        nll_before=raw.nll,
        nll_after=held_out.nll,
    )


def check_images(count: int) -> None:
    """BadParameter for too few images."""
    if count < LEAST_IMAGES:
        raise BadParameter(
            f"{count} labelled images are too few to calibrate on: at least {LEAST_IMAGES} are needed, and with "
            "2,000 a coverage of 90 % is right to about two points"
        )


def _cross_fitted(
    logits: Logits, truths: Truths, activation: Activation, temperature: float | None = None
) -> tuple[_Fitted, "_Measured"]:
    """What all images give, and the measure of each fold with what the others give; as for `_fit`."""
    held_out = _Measured(activation)
    for fold in range(_FOLDS):
        inside = np.arange(len(truths)) % _FOLDS == fold
        held_out.add(logits[inside], truths[inside], _fit(logits[~inside], truths[~inside], activation, temperature))
    return _fit(logits, truths, activation, temperature), held_out


def _fit(logits: Logits, truths: Truths, activation: Activation, temperature: float | None = None) -> _Fitted:
    """The fit to these images; with softmax scores, `temperature` is taken as it is if it is given."""
    half = len(truths) // 2
    temperature = temperature or fit_temperature(logits[:half], truths[:half], activation)
    if activation != SOFTMAX:
        return _Fitted(fit_temperature(logits, truths, activation), None, {})
    tuning = _Sorted.of(logits[:half], truths[:half], temperature)
    penalty = min(_candidates(), key=lambda candidate: tuning.mean_size(candidate, _TUNED_COVERAGE))
    calibrating = _Sorted.of(logits[half:], truths[half:], temperature).of_truths(penalty)
    thresholds = {coverage: coverage_threshold(calibrating, coverage) for coverage in COVERAGES}
    return _Fitted(temperature, penalty, {each: found for each, found in thresholds.items() if found is not None})


def _candidates() -> Iterator[RankPenalty]:
    yield RankPenalty(0.0, 0)
    for penalty in _PENALTIES[1:]:
        for free in _FREE_RANKS:
            yield RankPenalty(penalty, free)


@dataclass(frozen=True)
class _Sorted:
    """Scores of images with the largest first, (images, classes), and the place of each true class, from 0."""

    descending: NDArray[np.float64]
    places: NDArray[np.intp]

    @classmethod
    def of(cls, logits: Logits, truths: Truths, temperature: float) -> "_Sorted":
        order = np.argsort(-logits, axis=1, kind="stable")
        places = (order == truths[:, None]).argmax(axis=1)
        descending = np.take_along_axis(scores(logits, SOFTMAX, temperature), order, axis=1)
        return cls(descending, places)

    def of_truths(self, penalty: RankPenalty) -> NDArray[np.float64]:
        """The nonconformity of each true class."""
        found: NDArray[np.float64] = nonconformity(self.descending, penalty)[np.arange(len(self.places)), self.places]
        return found

    def mean_size(self, penalty: RankPenalty, coverage: float) -> float:
        """Of the sets at `coverage`, with a threshold from the same images."""
        threshold = coverage_threshold(self.of_truths(penalty), coverage)
        assert threshold is not None, "there are enough images for the coverage that is tuned for"
        return float(set_sizes(nonconformity(self.descending, penalty), threshold).mean())


class _Measured:
    """Collects the images of all folds, each with what was fitted to the others."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._scores: list[NDArray[np.float64]] = []  # of best classes
        self._correct: list[NDArray[np.bool_]] = []
        self._likelihoods: list[NDArray[np.float64]] = []
        self._sets: dict[float, list[tuple[NDArray[np.bool_], NDArray[np.intp]]]] = {}  # covered, sizes

    def add(self, logits: Logits, truths: Truths, fitted: _Fitted) -> None:
        probabilities = scores(logits, self._activation, fitted.temperature)
        self._scores.append(probabilities.max(axis=1))
        self._correct.append(logits.argmax(axis=1) == truths)
        true = probabilities[np.arange(len(truths)), truths]
        self._likelihoods.append(np.log(np.maximum(true, np.finfo(np.float64).tiny)))
        if fitted.penalty is None:
            return
        ordered = _Sorted.of(logits, truths, fitted.temperature)
        nonconformities = nonconformity(ordered.descending, fitted.penalty)
        for coverage, threshold in fitted.thresholds.items():
            sizes = set_sizes(nonconformities, threshold)
            self._sets.setdefault(coverage, []).append((ordered.places < sizes, sizes))

    @property
    def top1(self) -> float:
        return float(np.concatenate(self._correct).mean())

    @property
    def ece(self) -> float:
        return calibration_error(np.concatenate(self._scores), np.concatenate(self._correct))[0]

    @property
    def nll(self) -> float | None:
        return -float(np.concatenate(self._likelihoods).mean()) if self._activation == SOFTMAX else None

    def sets_at(self, coverage: float) -> tuple[float, float] | None:
        """The measured coverage and the mean size of the sets; None if a fold had too few images for it."""
        found = self._sets.get(coverage, [])
        if len(found) < _FOLDS:
            return None
        covered, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return float(covered.mean()), float(sizes.mean())


def _set_thresholds(fitted: _Fitted, held_out: _Measured) -> SetThresholds | None:
    if fitted.penalty is None:
        return None
    return SetThresholds(
        penalty=fitted.penalty.penalty,
        free=fitted.penalty.free,
        thresholds=tuple(
            CoverageThreshold(coverage=each, threshold=threshold, measured_coverage=measured[0], mean_size=measured[1])
            for each, threshold in fitted.thresholds.items()
            if (measured := held_out.sets_at(each))
        ),
    )
