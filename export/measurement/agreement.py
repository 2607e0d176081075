"""How an engine, or a precision, agrees with float32."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_AGREEMENT = 0.99


class Disagreement(Exception):
    """The logits are further from the reference's than they may be."""


@dataclass(frozen=True)
class Agreement:
    """How the logits of an engine, or a precision, compare with float32's over `images` images.

    `top1` is the share of images with the same best class, `worst` the largest difference of any logit, `scale` the
    largest logit.
    """

    images: int
    top1: float
    worst: float
    scale: float

    def check(self, what: str) -> None:
        """Raise Disagreement unless `what` answers as float32 does, for 99 of 100 images."""
        if not (np.isfinite(self.worst) and self.top1 >= LEAST_AGREEMENT):
            raise Disagreement(
                f"{what} agrees with float32 on the best class of {self.top1:.1%} of {self.images} images (at least "
                f"{LEAST_AGREEMENT:.0%} must), its logits are up to {self.worst:.2g} off"
            )


def agreement(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> Agreement:
    """Compare logits (outputs, images, classes), the first output being the answer."""
    best, other = (logits[0].argmax(axis=1) for logits in (expected, actual))
    return Agreement(
        images=expected.shape[1],
        top1=float((best == other).mean()),
        worst=float(np.abs(expected - actual).max()),
        scale=float(np.abs(expected).max()),
    )
