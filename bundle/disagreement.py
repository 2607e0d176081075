"""How much two branches disagree about an image."""

import numpy as np
from numpy.typing import NDArray

from bundle.scores import scores
from model.spec import SIGMOID, Activation


def branch_disagreement(
    first: NDArray[np.floating], second: NDArray[np.floating], activation: Activation
) -> NDArray[np.float64]:
    """The Jensen-Shannon divergence of two answers in bits, from 0 to 1, of their logits (…, classes).

    Softmax makes one distribution over the classes of each answer. With sigmoid each class has a distribution of its
    own, whether the image shows it; the divergence is that of the class about which they disagree most.
    """
    one, other = scores(first, activation), scores(second, activation)
    if activation == SIGMOID:
        pairs = (np.stack([each, 1 - each], axis=-1) for each in (one, other))
        largest: NDArray[np.float64] = _divergence(*pairs).max(axis=-1)
        return largest
    return _divergence(one, other)


def _divergence(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of distributions (…, outcomes). Source: Lin 1991, equation 3.1."""
    middle = (one + other) / 2
    found: NDArray[np.float64] = (_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2
    return np.clip(found, 0.0, 1.0)


def _relative_entropy(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.divide(one, other, out=np.ones_like(one), where=one > 0)
    found: NDArray[np.float64] = (one * np.log2(ratio)).sum(axis=-1)
    return found
