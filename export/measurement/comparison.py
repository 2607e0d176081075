"""Comparing logits with float32's on photographs."""

import math

import numpy as np
from numpy.typing import NDArray

from bundle.agreement import Agreement
from bundle.bundle_errors import ExplainedError
from bundle.scores import scores
from bundle.tensors import Outputs
from model.spec import Activation

_RIVALS, _SHUFFLES = 20, 100
_Z_95 = 1.959964  # of the normal distribution, two-sided

Rows = NDArray[np.float64]  # (images, classes)


class Disagreement(ExplainedError):
    """The logits are further from the reference's than they may be."""


def compare(expected: Outputs, actual: Outputs, activation: Activation) -> Agreement:
    """Compare logits (outputs, images, classes), the first output being the answer, which `activation` makes scores of.

    Raises Disagreement for logits that are not finite.
    """
    if not np.isfinite(actual).all():
        raise Disagreement("logits are NaN or infinite")
    worst = float(np.abs(expected - actual).max())
    logits, others = expected[0].astype(np.float64), actual[0].astype(np.float64)
    classes = scores(logits, activation)
    losses = _expected_losses(logits, others, classes)
    return Agreement(
        images=len(logits),
        top1=float((logits.argmax(axis=1) == others.argmax(axis=1)).mean()),
        clear=float((_leads(logits) > 2 * worst).mean()),
        worst=worst,
        scale=float(np.abs(expected).max()),
        distance=_distance(logits, others),
        score_distance=float(np.abs(classes - scores(others, activation)).max(axis=1).mean()),
        loss=float(losses.mean()),
        loss_limit=_upper_limit(losses),
    )


def _leads(logits: Rows) -> NDArray[np.float64]:
    """By how much each image's best class leads the next one; infinite for a network of one class."""
    if logits.shape[1] == 1:
        return np.full(len(logits), np.inf)
    next_best, best = np.partition(logits, -2, axis=1)[:, -2:].T
    leads: NDArray[np.float64] = best - next_best
    return leads


def _distance(logits: Rows, others: Rows) -> float:
    spread = float(logits.std(axis=1).mean()) or float(np.abs(logits).mean())  # of one class: its size
    return float(np.sqrt(np.square(others - logits).mean())) / max(spread, 1e-9)


def _expected_losses(logits: Rows, others: Rows, classes: Rows) -> NDArray[np.float64]:
    """What each image is expected to lose of the score of float32's best class.

    It is the mean over shuffles of the differences among the image's best classes: each might as well have fallen on
    another of them. So the figure rests on many logits of all images, and not only on the few images whose best class
    did change.
    """
    rivals = np.argsort(-logits, axis=1)[:, :_RIVALS]
    logits, others, classes = (np.take_along_axis(rows, rivals, axis=1) for rows in (logits, others, classes))
    rng, images = np.random.default_rng(0), np.arange(len(logits))
    lost = np.zeros(len(logits))
    for _ in range(_SHUFFLES):
        shuffled = logits + rng.permuted(others - logits, axis=1)
        lost += classes[:, 0] - classes[images, shuffled.argmax(axis=1)]
    return lost / _SHUFFLES


def _upper_limit(losses: NDArray[np.float64]) -> float:
    """The upper end of the 95 % interval of the mean, by the normal distribution; 1 for a single image."""
    if len(losses) == 1:
        return 1.0
    return min(1.0, float(losses.mean() + _Z_95 * losses.std(ddof=1) / math.sqrt(len(losses))))
