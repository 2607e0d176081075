"""Fits the temperature by which logits are divided, so that scores are probabilities."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bundle.calibration import MAX_TEMPERATURE
from bundle.scores import scores
from model.spec import SIGMOID, Activation

Logits = NDArray[np.float32]  # (images, classes)
Truths = NDArray[np.intp]  # (images,), the index of each image's class

_STEPS = 60
_ENOUGH = 1e-10  # of a step, relative
_CHUNK_IMAGES = 1024


def fit_temperature(logits: Logits, truths: Truths, activation: Activation) -> float:
    """The temperature with the least mean negative log-likelihood of `truths`.

    With sigmoid scores that is the binary cross-entropy of all classes. Either is convex in the inverse of the
    temperature, and Newton's steps find its minimum; a temperature beyond the bounds that a bundle may have is that
    bound. Source: Guo et al. 2017, section 4.2.
    """
    low, high = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    inverse = 1.0
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, truths, activation, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - inverse) <= _ENOUGH * inverse:
            break
        inverse = new
    return min(max(1 / inverse, 1 / MAX_TEMPERATURE), MAX_TEMPERATURE)


def _derivatives(logits: Logits, truths: Truths, activation: Activation, inverse: float) -> tuple[float, float]:
    """The first and the second derivative of the likelihood's sum, by the inverse of the temperature."""
    slope = curvature = 0.0
    for wide, true in _chunks(logits, truths):
        probabilities = scores(wide * inverse, activation)
        rows = np.arange(len(wide))
        if activation == SIGMOID:
            expected = probabilities.copy()
            expected[rows, true] -= 1
            slope += float((expected * wide).sum())
            curvature += float((probabilities * (1 - probabilities) * wide**2).sum())
        else:
            mean = (probabilities * wide).sum(axis=1)
            slope += float((mean - wide[rows, true]).sum())
            curvature += float(((probabilities * wide**2).sum(axis=1) - mean**2).sum())
    return slope, curvature


def _chunks(logits: Logits, truths: Truths) -> Iterator[tuple[NDArray[np.float64], Truths]]:
    for start in range(0, len(logits), _CHUNK_IMAGES):
        part = slice(start, start + _CHUNK_IMAGES)
        yield logits[part].astype(np.float64), truths[part]
