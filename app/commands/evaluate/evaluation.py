"""Asking for each image of the data, in order, with several under way."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.commands.classify import run_in_order
from app.commands.evaluate.accuracy import ImagePrediction, Tally
from app.errors import BadParameter
from bundle.bundle_errors import ExplainedError
from model.dataset import BadDataset, Dataset, LabelledImage

T = TypeVar("T")
AskForImage = Callable[[str, bytes], Awaitable[ImagePrediction]]  # for an image of some class

_TRIES = 10  # for an image, where it is said that trying again may help
_LONGEST_PAUSE = 60  # seconds
_GOLDEN = (5**0.5 - 1) / 2  # whose multiples modulo 1 spread as evenly as any


class NotAnswered(ExplainedError):
    """A server's answer that is not what was asked for; `kind` is its status, or what happened instead."""

    def __init__(self, message: str, kind: str, retry_after: int | None = None) -> None:
        super().__init__(message, retry_after)
        self.kind = kind


@dataclass(frozen=True)
class Answered:
    """What gave answers. Over HTTP what the server does not say is None."""

    name: str
    variant: str | None
    weights: str | None
    weights_source: str | None
    engine: str | None
    precision: str | None
    resolution: int | None

    def __str__(self) -> str:
        return f"{self.name} at {self.resolution}: {self.engine} {self.precision}, weights {(self.weights or '?')[:19]}"


@dataclass(frozen=True)
class PredictionSource:
    """Whom to ask, with so many images under way. `answered_by` gives all that did, once it has been asked."""

    ask: AskForImage
    in_flight: int
    answered_by: Callable[[], Sequence[Answered]]
    against: Answered | None = None
    url: str | None = None


@dataclass(frozen=True)
class ImageFailure:
    """Why there is no answer for an image; `kind` is the name of the error in app.errors, or a server's status."""

    kind: str
    error: str


@dataclass(frozen=True)
class ImageOutcome:
    item: LabelledImage
    result: ImagePrediction | ImageFailure


@dataclass(frozen=True)
class ImageError:
    """An image that has no answer."""

    source: str
    name: str
    error: str


@dataclass
class EvaluationRun:
    """What was measured of `asked` images."""

    asked: int
    tally: Tally = field(default_factory=Tally)
    errors: list[ImageError] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False

    def add(self, outcome: ImageOutcome) -> None:
        item, result = outcome.item, outcome.result
        if isinstance(result, ImagePrediction):
            self.tally.add(item.category, result)
        else:
            self.errors.append(ImageError(str(item.source), item.name, result.error))
            self.failures[result.kind] += 1


def sample(total: int, limit: int | None) -> list[int]:
    """`limit` of the indices under `total`, or all if there are fewer, evenly spread and always the same.

    Their order is such that whatever comes first is evenly spread too: if the rest is never asked for, all classes have
    their share.
    """
    count = min(limit or total, total)
    return sorted((number * total // count for number in range(count)), key=lambda index: index * _GOLDEN % 1)


async def run(
    data: Dataset,
    indices: Sequence[int],
    source: PredictionSource,
    watch: Callable[[ImageOutcome], None] = lambda _: None,
) -> EvaluationRun:
    """Ask for the images at `indices` and show each outcome to `watch`; a cancellation ends it with what there is."""
    measured, started = EvaluationRun(len(indices)), time.perf_counter()
    work: Iterator[Coroutine[Any, Any, ImageOutcome]] = (_outcome(data, index, source.ask) for index in indices)
    try:
        async with aclosing(run_in_order(work, source.in_flight)) as outcomes:
            async for outcome in outcomes:
                measured.add(outcome)
                watch(outcome)
    except asyncio.CancelledError:  # Ctrl-C
        measured.interrupted = True
    measured.seconds = time.perf_counter() - started
    return measured


async def _outcome(data: Dataset, index: int, ask: AskForImage) -> ImageOutcome:
    """BadParameter ends all: it is what was asked for that cannot be, not this image."""
    item = data.items[index]
    try:
        body = await asyncio.to_thread(data.read, index)
        return ImageOutcome(item, await patiently(lambda: ask(item.category, body)))
    except BadParameter:
        raise
    except (BadDataset, ExplainedError) as err:
        kind = err.kind if isinstance(err, NotAnswered) else type(err).__name__
        return ImageOutcome(item, ImageFailure(kind, str(err)))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What `call` gives; if its error says when trying again may help it is called then, ten times in all."""
    for _ in range(_TRIES - 1):
        try:
            return await call()
        except ExplainedError as err:
            if err.retry_after is None:
                raise
            await asyncio.sleep(min(err.retry_after, _LONGEST_PAUSE))
    return await call()
