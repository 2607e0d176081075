"""What sees a share of a model's answers once they are made: a shadow, metrics of drift, a log of answers."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from app.decoding.decoder_memory import PixelBlock

if TYPE_CHECKING:
    from app.serving.served_model import ModelAnswer, ServedModel


@dataclass(frozen=True)
class AnsweredImages:
    """Images of one request that a model has answered.

    Attributes:
        model: that answered.
        images: the encoded images, or pixels, which are the request's to release.
        answers: in the order of the images, with logits.
    """

    model: "ServedModel"
    images: Sequence[bytes] | PixelBlock
    answers: "Sequence[ModelAnswer]"


class AnswerTap(Protocol):
    """Sees answers before they are sent. Its methods return at once; what `see` raises is logged."""

    def wants(self) -> bool:
        """Whether it is to see the answers to the next request of the model."""
        ...

    def see(self, answered: AnsweredImages) -> None: ...


class RequestSample:
    """Draws `percent` of the requests, each by itself."""

    def __init__(self, percent: float, draw: Callable[[], float] = random.random) -> None:
        self._share = percent / 100
        self._draw = draw

    def drawn(self) -> bool:
        """Whether the next request is in the sample."""
        return self._draw() < self._share
