"""Metrics that show whether answers drift: how sure the model is, how its branches differ, which classes it finds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

from app.telemetry.metrics import Metrics
from bundle.disagreement import branch_disagreement
from bundle.scores import best_classes, scores
from bundle.tensors import Outputs
from model.spec import SIGMOID, Activation

MOST_COUNTED_CLASSES = 1000  # of a model whose answers are counted by class: each class found is a series
KEPT_CLASSES = 5

_SCORE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_ENTROPY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10)
_DISAGREEMENT_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1)


@dataclass(frozen=True)
class AnswerFigures:
    """What one answer says of itself.

    Attributes:
        best: indices and scores of the five best classes, the best first.
        entropy: of the scores in bits, 0 to log2(classes).
        disagreement: of the branches in bits, 0 to 1.
    """

    best: list[tuple[int, float]]
    entropy: float
    disagreement: float


def answer_figures(outputs: Outputs, activation: Activation, temperature: float = 1.0) -> AnswerFigures:
    """The figures of an image's logits (outputs, classes); scores are of the logits divided by `temperature`."""
    logits, small, large = outputs
    return AnswerFigures(
        best_classes(logits, KEPT_CLASSES, activation, temperature),
        _entropy(scores(logits, activation, temperature), activation),
        float(branch_disagreement(small, large, activation)),
    )


def _entropy(found: NDArray[np.float64], activation: Activation) -> float:
    """Of the scores (classes,) in bits; with sigmoid the mean over the classes of the entropy of each one's own."""
    if activation == SIGMOID:
        return float((_surprise(found) + _surprise(1 - found)).mean())
    return float(_surprise(found).sum())


def _surprise(found: NDArray[np.float64]) -> NDArray[np.float64]:
    return -found * np.log2(found, out=np.zeros_like(found), where=found > 0)


class DriftMetrics:
    """Histograms of the figures, and the number of answers of each class, by model."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.counters
        self._score = Histogram(
            "crossvit_drift_top_score",
            "Score of the best class",
            ["model"],
            buckets=_SCORE_BUCKETS,
            registry=registry,
        )
        self._entropy = Histogram(
            "crossvit_drift_entropy_bits",
            "Entropy of the scores",
            ["model"],
            buckets=_ENTROPY_BUCKETS,
            registry=registry,
        )
        self._disagreement = Histogram(
            "crossvit_drift_disagreement_bits",
            "Jensen-Shannon divergence of the two branches",
            ["model"],
            buckets=_DISAGREEMENT_BUCKETS,
            registry=registry,
        )
        self._classes = Counter(
            "crossvit_drift_class_images",
            "Images by their best class, of models of 1000 classes or fewer",
            ["model", "index"],
            registry=registry,
        )

    def observe(self, model: str, classes: int, figures: AnswerFigures) -> None:
        """Count an answer of `model`, which has so many classes."""
        index, score = figures.best[0]
        self._score.labels(model).observe(score)
        self._entropy.labels(model).observe(figures.entropy)
        self._disagreement.labels(model).observe(figures.disagreement)
        if classes <= MOST_COUNTED_CLASSES:
            self._classes.labels(model, str(index)).inc()
