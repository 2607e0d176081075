"""From logits to scores."""

import numpy as np
from numpy.typing import NDArray

from model.spec import SIGMOID, Activation


def scores(logits: NDArray[np.floating], activation: Activation) -> NDArray[np.float64]:
    """The scores of logits (…, classes): their softmax over the classes, or each one's sigmoid."""
    wide = logits.astype(np.float64)
    if activation == SIGMOID:
        sigmoid: NDArray[np.float64] = np.exp(-np.logaddexp(0, -wide))
        return sigmoid
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares
