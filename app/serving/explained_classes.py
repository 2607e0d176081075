"""What the numbers of an explanation say: ranks, scores, and the share of the logit that each branch's map explains."""

from dataclasses import dataclass

import numpy as np

from app.inspection.inspector import ClassMap, InspectedImage
from bundle.scores import scores
from model.spec import Activation


@dataclass(frozen=True)
class ExplainedClass:
    """A class of an image, with its maps.

    Attributes:
        maps: what the patches of each branch give to the class's logit.
        rank: 1 for the class with the largest logit.
        score: as of /classify.
        logit: of the class.
        sums: of the maps, small and large.
        shares: of the logit, -1 to 1, small and large; see `logit_shares`.
    """

    maps: ClassMap
    rank: int
    score: float
    logit: float
    sums: tuple[float, float]
    shares: tuple[float, float]


def explained_classes(image: InspectedImage, activation: Activation, temperature: float = 1.0) -> list[ExplainedClass]:
    """The classes of `image` that were explained, in their order; scores are made as bundle.scores has it."""
    logits = image.outputs[0]
    values = scores(logits, activation, temperature)
    explained = []
    for maps in image.maps:
        logit = float(logits[maps.index])
        better = (logits > logit) | ((logits == logit) & (np.arange(len(logits)) < maps.index))
        sums = (float(maps.small.sum()), float(maps.large.sum()))
        explained.append(
            ExplainedClass(
                maps=maps,
                rank=1 + int(better.sum()),
                score=float(values[maps.index]),
                logit=logit,
                sums=sums,
                shares=logit_shares(logit, sums),
            )
        )
    return explained


def logit_shares(logit: float, sums: tuple[float, float]) -> tuple[float, float]:
    """The shares of `logit` that the maps with these `sums` explain, small and large.

    A logit is the sum of both maps and of a rest, which is not the patches': biases, and what each CLS brings along. A
    share is a map's sum by the sizes of all three. So it is sum / logit where they have one sign, and it stays within
    -1 and 1 where they cancel, also for a logit near zero.
    """
    small, large = sums
    whole = abs(small) + abs(large) + abs(logit - small - large)
    return (small / whole, large / whole) if whole else (0.0, 0.0)
