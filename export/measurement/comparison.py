"""Comparing logits with float32's on photographs."""

import math

import numpy as np
from numpy.typing import NDArray

from bundle.agreement import Agreement
from bundle.bundle_errors import ExplainedError
from bundle.scores import scores
from bundle.tensors import Outputs
from model.spec import SOFTMAX, Activation

_RIVALS, _SHUFFLES = 20, 100
_Z_95 = 1.959964  # of the normal distribution, two-sided

Rows = NDArray[np.float64]  # (images, classes)


class Disagreement(ExplainedError):
    """The logits are further from the reference's than they may be."""


def compare(expected: Outputs, actual: Outputs, activation: Activation, photographs: int) -> Agreement:
    """Compare logits (outputs, images, classes), the first output being the answer, which `activation` makes scores of.

    Image i is a view of photograph i modulo `photographs`, as export.measurement.photos.views has them. Raises
    Disagreement for logits that are not finite.
    """
    for outputs, whose in ((expected, "float32's own"), (actual, "its")):
        if not np.isfinite(outputs).all():
            raise Disagreement(f"{whose} logits are NaN or infinite")
    worst = float(np.abs(expected - actual).max())
    logits, others = (_two_classes(outputs[0].astype(np.float64)) for outputs in (expected, actual))
    if expected.shape[2] == 1:
        activation = SOFTMAX  # of the class and its absence: the sigmoid of its logit
    classes = scores(logits, activation)
    losses = _observed_losses(logits, others, classes), _shuffled_losses(logits, others, classes)
    return Agreement(
        images=len(logits),
        photographs=min(photographs, len(logits)),
        top1=float((logits.argmax(axis=1) == others.argmax(axis=1)).mean()),
        clear=float((_leads(logits) > 2 * worst).mean()),
        worst=worst,
        scale=float(np.abs(expected).max()),
        distance=_distance(logits, others, activation),
        score_distance=float(np.abs(classes - scores(others, activation)).max(axis=1).mean()),
        loss=max(float(lost.mean()) for lost in losses),
        loss_limit=max(upper_limit(_means(lost, photographs)) for lost in losses),
    )


def upper_limit(values: NDArray[np.float64]) -> float:
    """The upper end of the 95 % interval of the mean of `values`, at least two, by Student's t; at most 1."""
    degrees = len(values) - 1
    z, quantile = _Z_95, _Z_95  # of t by that of the normal distribution: Abramowitz and Stegun, 26.7.5
    quantile += (z**3 + z) / (4 * degrees)
    quantile += (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    quantile += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return min(1.0, float(values.mean() + quantile * values.std(ddof=1) / math.sqrt(len(values))))


def _two_classes(logits: Rows) -> Rows:
    """Logits of one class as those of two, of which the first is its absence."""
    return np.pad(logits, ((0, 0), (1, 0))) if logits.shape[1] == 1 else logits


def _means(values: NDArray[np.float64], photographs: int) -> NDArray[np.float64]:
    """The mean over each photograph's views."""
    return np.array([values[number::photographs].mean() for number in range(min(photographs, len(values)))])


def _leads(logits: Rows) -> NDArray[np.float64]:
    """By how much each image's best class leads the next one."""
    next_best, best = np.partition(logits, -2, axis=1)[:, -2:].T
    leads: NDArray[np.float64] = best - next_best
    return leads


def _distance(logits: Rows, others: Rows, activation: Activation) -> float:
    differences = others - logits
    if activation == SOFTMAX:
        differences -= differences.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.square(differences).mean())) / max(float(logits.std(axis=1).mean()), 1e-9)


def _observed_losses(logits: Rows, others: Rows, classes: Rows) -> NDArray[np.float64]:
    """What each image's other best class lacks to the score of float32's."""
    images = np.arange(len(logits))
    lost: NDArray[np.float64] = classes[images, logits.argmax(axis=1)] - classes[images, others.argmax(axis=1)]
    return lost


def _shuffled_losses(logits: Rows, others: Rows, classes: Rows) -> NDArray[np.float64]:
    """The same, as the mean over shuffles of the differences among each image's best classes.

    Each might as well have fallen on another of them. So the figure rests on many logits of all images, and not only on
    the few images whose best class did change.
    """
    rivals = np.argsort(-logits, axis=1)[:, :_RIVALS]
    logits, others, classes = (np.take_along_axis(rows, rivals, axis=1) for rows in (logits, others, classes))
    rng, lost = np.random.default_rng(0), np.zeros(len(logits))
    for _ in range(_SHUFFLES):
        lost += _observed_losses(logits, logits + rng.permuted(others - logits, axis=1), classes)
    return lost / _SHUFFLES
