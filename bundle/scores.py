"""From logits to scores."""

import numpy as np
from numpy.typing import NDArray

from model.spec import SIGMOID, SOFTMAX, Activation


def scores(logits: NDArray[np.floating], activation: Activation, temperature: float = 1.0) -> NDArray[np.float64]:
    """The scores of logits (…, classes): their softmax over the classes, or each one's sigmoid.

    The logits are divided by `temperature` first. Source: Guo et al. 2017, section 4.2.
    """
    wide = logits.astype(np.float64)
    if temperature != 1.0:
        wide /= temperature
    if activation == SIGMOID:
        sigmoid: NDArray[np.float64] = np.exp(-np.logaddexp(0, -wide))
        return sigmoid
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares


def best_classes(
    logits: NDArray[np.floating], count: int, activation: Activation = SOFTMAX, temperature: float = 1.0
) -> list[tuple[int, float]]:
    """Index and score of the `count` classes with the largest of `logits` (classes,), the best first.

    Equal ones are in the order of their indices, NaN comes last. There are fewer where there are fewer classes.
    """
    values = scores(logits, activation, temperature)
    descending = -logits
    candidates = np.arange(len(logits))
    if count < len(logits):
        # Not <=, which NaN never is.
        candidates = np.flatnonzero(~(descending > np.partition(descending, count - 1)[count - 1]))
    order = candidates[np.argsort(descending[candidates], kind="stable")][:count]
    return [(int(index), float(values[index])) for index in order]
