"""A shadow: a second model that gets copies of requests, and whose answers go into metrics and to nobody else.

A copy begins once its request is answered. The copies are classified one after the other: a file is dropped if an
image waits for any model when its turn comes. It waits for a decoder behind all others, counts in no estimate of the
wait, and never waits for room. On a CPU the shadow's engine has the lowest priority of the operating system: it
computes where the others leave time. So a copy refuses no request, and delays one by the decoding of one image at most.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from app.decoding.decoder_memory import PixelBlock
from app.decoding.fair_queue import BACKGROUND_CALLER
from app.errors import BadParameter, QueueFull, TooLate
from app.serving.answer_taps import AnsweredImages, RequestSample
from app.serving.repository import Repository
from app.serving.served_model import ModelAnswer, ServedModel
from app.telemetry.metrics import Metrics
from app.telemetry.shadow_metrics import ShadowMetrics, ShadowOutcome
from bundle.bundle_errors import ExplainedError
from bundle.scores import scores

log = logging.getLogger(__name__)

MOST_COPIES = 32  # images that are under way
MOST_COPY_BYTES = 64 << 20  # of their files or pixels
_SECONDS = 10  # that a copy may take once it has its turn


class Shadow:
    """An AnswerTap of the models beside which the shadow answers.

    Args:
        name: of the shadow.
        find: gives the served model of a name, as Repository.model does.
        models: all that are served.
        sample: the requests that are copied.
        metrics: of the shadow.
    """

    def __init__(
        self,
        name: str,
        find: Callable[[str], ServedModel],
        models: Callable[[], Iterable[ServedModel]],
        sample: RequestSample,
        metrics: ShadowMetrics,
    ) -> None:
        self._name = name
        self._find = find
        self._models = models
        self._sample = sample
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._images = self._bytes = 0  # under way
        self._turn = asyncio.Lock()  # of the copy that is classified
        self._warned: set[str] = set()

    def wants(self) -> bool:
        return self._sample.drawn()

    def see(self, answered: AnsweredImages) -> None:
        count = len(answered.answers)
        if not count:
            return
        try:
            shadow = self._find(self._name)
        except ExplainedError:  # it is loading, or was unloaded
            self._count(answered.model, "failed", count)
            return
        resolution = _resolution(shadow, answered)
        size = _size(answered.images)
        if not self._fits(shadow, answered.model) or resolution is None:
            self._count(answered.model, "failed", count)
        elif self._has_room(count, size) and not self._busy:
            self._begin(answered, shadow, resolution, size)
        else:
            self._count(answered.model, "dropped", count)

    def _fits(self, shadow: ServedModel, model: ServedModel) -> bool:
        """Whether both have the same classes, as far as that can be told; the log says it once if they have not."""
        if shadow.bundle.manifest.classes == model.bundle.manifest.classes:
            return True
        if model.bundle.hash not in self._warned:
            self._warned.add(model.bundle.hash)
            log.warning(
                "%s cannot be compared with its shadow %s: they have %d and %d classes",
                model.bundle.name,
                shadow.bundle.name,
                model.bundle.manifest.classes,
                shadow.bundle.manifest.classes,
            )
        return False

    def _has_room(self, images: int, size: int) -> bool:
        return self._images + images <= MOST_COPIES and self._bytes + size <= MOST_COPY_BYTES

    @property
    def _busy(self) -> bool:
        """Whether an image waits for a model; copies do not count as waiting."""
        return any(model.waiting for model in self._models())

    def _begin(self, answered: AnsweredImages, shadow: ServedModel, resolution: int, size: int) -> None:
        images, count = answered.images, len(answered.answers)

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._images, self._bytes = self._images - count, self._bytes - size
            if isinstance(images, PixelBlock):
                images.release()

        self._images, self._bytes = self._images + count, self._bytes + size
        if isinstance(images, PixelBlock):
            images.keep()
        task = asyncio.create_task(self._compare(answered, shadow, resolution))
        self._tasks.add(task)
        task.add_done_callback(end)

    async def _compare(self, answered: AnsweredImages, shadow: ServedModel, resolution: int) -> None:
        with shadow.in_use():
            for images, answers in _turns(answered):
                async with self._turn:
                    await self._compare_turn(answered.model, images, answers, shadow, resolution)

    async def _compare_turn(
        self,
        model: ServedModel,
        images: Sequence[bytes] | PixelBlock,
        answers: Sequence[ModelAnswer],
        shadow: ServedModel,
        resolution: int,
    ) -> None:
        try:
            if self._busy or self._find(self._name) is not shadow:  # it was reloaded: its new bundle gets new copies
                self._count(model, "dropped", len(answers))
                return
            others = await _asked(shadow, images, resolution)
        except (QueueFull, TooLate):
            self._count(model, "dropped", len(answers))
        except Exception as err:
            if not isinstance(err, ExplainedError):
                log.exception("the shadow %s failed", self._name)
            self._count(model, "failed", len(answers))
        else:
            self._count(model, "answered", len(answers))
            for one, other in zip(answers, others, strict=True):
                self._compare_answers(model, one, shadow, other)

    def _compare_answers(self, model: ServedModel, one: ModelAnswer, shadow: ServedModel, other: ModelAnswer) -> None:
        best = int(np.argmax(one.outputs[0]))
        self._metrics.compare(
            model.bundle.name,
            agrees=best == int(np.argmax(other.outputs[0])),
            difference=abs(_score(model, one, best) - _score(shadow, other, best)),
            seconds=other.inference.seconds,
        )

    def _count(self, model: ServedModel, outcome: ShadowOutcome, images: int) -> None:
        self._metrics.count(model.bundle.name, outcome, images)


def _turns(answered: AnsweredImages) -> Iterator[tuple[Sequence[bytes] | PixelBlock, Sequence[ModelAnswer]]]:
    """What is copied at a time: a file, or all pixels, which need no decoder."""
    if isinstance(answered.images, PixelBlock):
        yield answered.images, answered.answers
    else:
        yield from (([body], [answer]) for body, answer in zip(answered.images, answered.answers, strict=True))


async def _asked(shadow: ServedModel, images: Sequence[bytes] | PixelBlock, resolution: int) -> list[ModelAnswer]:
    deadline = time.perf_counter() + _SECONDS
    if isinstance(images, PixelBlock):
        return await shadow.classify_pixels(images, resolution, deadline, caller=BACKGROUND_CALLER)
    return await shadow.classify_all(images, resolution, deadline, caller=BACKGROUND_CALLER)


def _resolution(shadow: ServedModel, answered: AnsweredImages) -> int | None:
    """At which the shadow answers: as the model at its default where that is at its own, else at the same.

    Where the shadow has no such resolution, that is its default for files, and None for pixels.
    """
    bundle, resolution = answered.model.bundle, answered.answers[0].resolution
    if isinstance(answered.images, PixelBlock):
        own = shadow.bundle.manifest.preprocessing.get(resolution)
        return resolution if own is not None and own.crop == answered.images.shape[1] else None
    is_default = resolution == bundle.manifest.default_resolution
    return resolution if not is_default and resolution in shadow.bundle.resolutions else shadow.resolution(None)


def _size(images: Sequence[bytes] | PixelBlock) -> int:
    return images.pixels.nbytes if isinstance(images, PixelBlock) else sum(map(len, images))


def _score(model: ServedModel, answer: ModelAnswer, index: int) -> float:
    temperature = answer.calibration.temperature if answer.calibration else 1.0
    return float(scores(answer.outputs[0], model.bundle.manifest.activation, temperature)[index])


def make_shadow(name: str, percent: float, repository: Repository, metrics: Metrics) -> Shadow:
    """The shadow called `name` of the other models in `repository`; BadParameter if it is not among them."""
    names = [entry.name for entry in repository.entries]
    if name not in names:
        raise BadParameter(f"--shadow {name}: there is no such model; the models are {', '.join(names)}")
    if name == repository.default:
        raise BadParameter(f"--shadow {name}: the default model cannot be its own shadow; name another served model")
    return Shadow(
        name,
        repository.model,
        lambda: repository.served,
        RequestSample(percent),
        ShadowMetrics(metrics, name),
    )
