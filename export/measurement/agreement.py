"""How an engine, or a precision, agrees with float32."""

from dataclasses import dataclass

import numpy as np

from bundle.bundle_errors import ExplainedError
from bundle.manifest import PrecisionAgreement
from bundle.tensors import Outputs

MIN_TOP1_AGREEMENT = 0.99


class Disagreement(ExplainedError):
    """The logits are further from the reference's than they may be."""


@dataclass(frozen=True)
class Agreement:
    """How the logits of an engine, or a precision, compare with float32's.

    Attributes:
        images: the number of images.
        top1: the share of images with the same best class.
        worst: the largest difference of any logit, which may be NaN.
        scale: float32's largest logit.
    """

    images: int
    top1: float
    worst: float
    scale: float

    def check(self, subject: str) -> None:
        """Raise Disagreement unless `subject` has float32's best class for 99 of 100 images, and finite logits."""
        if not (np.isfinite(self.worst) and self.top1 >= MIN_TOP1_AGREEMENT):
            raise Disagreement(
                f"{subject} agrees with float32 on the best class of {self.top1:.1%} of {self.images} images (at least "
                f"{MIN_TOP1_AGREEMENT:.0%} must), its logits are up to {self.worst:.2g} off"
            )

    def for_manifest(self) -> PrecisionAgreement:
        return PrecisionAgreement(images=self.images, top1=self.top1, worst=self.worst, scale=self.scale)


def agreement(expected: Outputs, actual: Outputs) -> Agreement:
    """Compare logits (outputs, images, classes), the first output being the answer."""
    expected_best, actual_best = (logits[0].argmax(axis=1) for logits in (expected, actual))
    return Agreement(
        images=expected.shape[1],
        top1=float((expected_best == actual_best).mean()),
        worst=float(np.abs(expected - actual).max()),
        scale=float(np.abs(expected).max()),
    )
