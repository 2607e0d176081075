"""Asks for a prediction of each image of a data set, in order, with several requests in flight."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from app.commands.evaluate.accuracy import ImagePrediction, PredictionTable
from app.errors import BadParameter
from app.serving.offline_model import run_in_order
from bundle.bundle_errors import ExplainedError
from model.dataset import BadDataset, Dataset, LabelledImage

T = TypeVar("T")
AskForImage = Callable[[str, bytes], Awaitable[ImagePrediction]]  # takes the image's class and its encoded bytes

_MAX_TRIES = 10  # for an image, as long as the error says when to retry
_MAX_PAUSE_SECONDS = 60
_PART = re.compile(r"(?P<number>\d{1,4})/(?P<parts>\d{1,4})", re.ASCII)
_GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples modulo 1 spread as evenly as any


class NotAnswered(ExplainedError):
    """A server did not classify the image; `kind` is the answer's status, or what happened instead."""

    def __init__(self, message: str, kind: str, retry_after: int | None = None) -> None:
        super().__init__(message, retry_after)
        self.kind = kind


@dataclass(frozen=True)
class Answered:
    """A model, engine and resolution that gave answers. Over HTTP a field is None if the server does not tell it."""

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
    """What to ask for predictions.

    Attributes:
        ask: gives the prediction for one image.
        in_flight: number of images to ask for at once.
        answered_by: lists what gave the answers so far.
        against: the second model, if there is one.
        url: the server's, if there is one.
    """

    ask: AskForImage
    in_flight: int
    answered_by: Callable[[], Sequence[Answered]]
    against: Answered | None = None
    url: str | None = None


@dataclass(frozen=True)
class ImageFailure:
    """Why an image has no answer; `kind` is the name of the error in app.errors, or a server's status."""

    kind: str
    error: str


@dataclass(frozen=True)
class ImageOutcome:
    item: LabelledImage
    result: ImagePrediction | ImageFailure


@dataclass(frozen=True)
class ImageError:
    """An image without an answer."""

    source: str
    name: str
    error: str


@dataclass
class EvaluationRun:
    """The predictions and errors of `images` requested images."""

    images: int
    predictions: PredictionTable = field(default_factory=PredictionTable)
    errors: list[ImageError] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False

    def add(self, outcome: ImageOutcome) -> None:
        item, result = outcome.item, outcome.result
        if isinstance(result, ImagePrediction):
            self.predictions.add(item.category, result)
        else:
            self.errors.append(ImageError(str(item.source), item.name, result.error))
            self.failures[result.kind] += 1


def open_data(paths: Sequence[Path]) -> Dataset:
    """The labelled images at `paths`. Raises BadParameter."""
    try:
        return Dataset(paths)
    except BadDataset as err:
        raise BadParameter(str(err)) from err


def sample(total: int, limit: int | None, part: str | None = None) -> list[int]:
    """`limit` of the indices below `total`, or all if there are fewer, evenly spread and always the same.

    Of a `part`, such as "1/2", they are those of every second index; no two parts share any. BadParameter if it is
    none. The first ones in the list are evenly spread too: if the run stops early, all classes have their share.
    """
    number, parts = (1, 1) if part is None else _part(part)
    those = range(number - 1, total, parts)
    count = min(limit or len(those), len(those))
    return sorted((those[place * len(those) // count] for place in range(count)), key=_spread)


def _spread(index: int) -> float:
    return index * _GOLDEN_RATIO % 1


def _part(text: str) -> tuple[int, int]:
    match = _PART.fullmatch(text)
    if match is None or not 1 <= int(match["number"]) <= int(match["parts"]):
        raise BadParameter(f"--part {text[:20]} must be like 1/2, the first of two parts of the images")
    return int(match["number"]), int(match["parts"])


async def run(
    data: Dataset,
    indices: Sequence[int],
    source: PredictionSource,
    watch: Callable[[ImageOutcome], None] = lambda _: None,
) -> EvaluationRun:
    """Ask for the images at `indices` and give each outcome to `watch`; a cancelled run has the outcomes so far."""
    result, started = EvaluationRun(len(indices)), time.perf_counter()
    work: Iterator[Coroutine[Any, Any, ImageOutcome]] = (_outcome(data, index, source.ask) for index in indices)
    try:
        async with aclosing(run_in_order(work, source.in_flight)) as outcomes:
            async for outcome in outcomes:
                result.add(outcome)
                watch(outcome)
    except asyncio.CancelledError:  # Ctrl-C
        result.interrupted = True
    result.seconds = time.perf_counter() - started
    return result


async def _outcome(data: Dataset, index: int, ask: AskForImage) -> ImageOutcome:
    """BadParameter ends the run: the request is wrong, not this image."""
    item = data.items[index]
    try:
        body = await asyncio.to_thread(data.read, index)
        return ImageOutcome(item, await with_retries(lambda: ask(item.category, body)))
    except BadParameter:
        raise
    except (BadDataset, ExplainedError) as err:
        kind = err.kind if isinstance(err, NotAnswered) else type(err).__name__
        return ImageOutcome(item, ImageFailure(kind, str(err)))


async def with_retries(call: Callable[[], Awaitable[T]]) -> T:
    """The result of `call`. Where its error says when to retry, it is called again then, ten times in all."""
    for _ in range(_MAX_TRIES - 1):
        try:
            return await call()
        except ExplainedError as err:
            if err.retry_after is None:
                raise
            await asyncio.sleep(min(err.retry_after, _MAX_PAUSE_SECONDS))
    return await call()
