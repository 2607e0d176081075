"""A served model: from an image's bytes to its logits and best classes."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.decoding.decoder_memory import PixelBlock, PixelLocation
from app.decoding.fair_queue import BACKGROUND_CALLER
from app.decoding.pool import DecoderPool
from app.engines.engine_process.launch import EngineInput, EngineResult
from app.engines.engine_process.supervisor import EngineSupervisor
from app.errors import NotReady
from app.inspection.inspector import Inspector
from app.serving.answer_details import fitted_threshold
from app.serving.answer_taps import AnsweredImages, AnswerTap
from app.serving.batcher import Batcher, Place
from app.serving.model_engines import ModelEngines
from app.serving.model_inspection import ModelInspection
from app.serving.together import together
from app.telemetry.metrics import ModelMetrics
from app.timing import Interval, until_deadline
from bundle.agreement import Agreement
from bundle.bundle_errors import ExplainedError
from bundle.calibration import Calibration, ScoreCalibration
from bundle.class_labels import ClassLabel
from bundle.reader import Bundle
from bundle.scores import best_classes
from bundle.tensors import Outputs

log = logging.getLogger(__name__)

DEFAULT_QUEUE_BATCHES = 8
LEAST_QUEUE_IMAGES = 64


@dataclass(frozen=True)
class ModelAnswer:
    """What was wanted of one image, its best classes or its logits, and when each stage was at work."""

    result: EngineResult
    resolution: int
    waited: Interval  # for a decoder
    decode: Interval
    queue: Interval  # for the engine
    inference: Interval

    @property
    def queued(self) -> float:
        """Seconds that the image waited for anything."""
        return self.waited.seconds + self.queue.seconds

    @property
    def stages(self) -> list[tuple[str, Interval]]:
        """The stages by their names, in order."""
        return [
            ("decoder_wait", self.waited),
            ("decode", self.decode),
            ("queue", self.queue),
            ("inference", self.inference),
        ]

    @property
    def outputs(self) -> Outputs:
        """The logits (outputs, classes), if these were wanted."""
        return self.result.outputs

    @property
    def calibration(self) -> ScoreCalibration | None:
        """Of the scores, if they are calibrated."""
        return self.result.calibration

    def best(self, labels: Sequence[ClassLabel]) -> list[tuple[ClassLabel, float]]:
        """As many of the best classes as were wanted, with their scores, the best first."""
        return [(labels[index], score) for index, score in self.result.best]


class ServedModel:
    """Classifies images with one bundle. `start` it, `close` it: that finishes what it was given.

    Of the engines of its resolutions one runs at a time, on all cores.

    Copies, whose caller is BACKGROUND_CALLER, are decoded behind all others, and are in no metrics and no tap.

    Every method that classifies takes a `deadline` (on the clock of time.perf_counter) and raises TooLate when it
    passes. `best` is the number of best classes that are wanted, 0 for logits. Room in the queue and the decoders' time
    are shared between callers, told apart by `caller`.

    Attributes:
        bundle: that it answers for.
        metrics: of this model.
        calibrations: of its scores, by precision and resolution.
        taps: see a share of its answers.

    Args:
        bundle: is closed with the model.
        decoders: make pixels of encoded images; other models may use them too.
        metrics: of this model.
        make_engine: makes an EngineSupervisor of the bundle, a resolution and the options that are the model's.
        make_inspector: makes an Inspector of the bundle and the options that are the model's.
        max_batch: the most images in a call; 0 is what the engine is best at.
        max_queue: the most images that wait; 0 is eight calls of the default resolution's engine, at least 64.
        max_queue_bytes: the most memory of their pixels, each counted at the largest resolution.
        max_queue_seconds: as for Batcher.
    """

    def __init__(
        self,
        bundle: Bundle,
        decoders: DecoderPool,
        metrics: ModelMetrics,
        *,
        make_engine: Callable[..., EngineSupervisor],
        make_inspector: Callable[..., Inspector],
        max_batch: int,
        max_queue: int,
        max_queue_bytes: int = 512 << 20,
        max_queue_seconds: float = math.inf,
    ) -> None:
        self.bundle = bundle
        self.metrics = metrics
        self.calibrations = bundle.calibration
        self.taps: tuple[AnswerTap, ...] = ()
        self._decoders = decoders
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._most_images = max_queue_bytes // _image_bytes(bundle)
        self._max_queue_seconds = max_queue_seconds
        self._make_inspector = make_inspector
        self._inspection: ModelInspection | None = None
        self._users = 0
        self._closing = False
        self._unused = asyncio.Event()
        self._engines = ModelEngines(
            bundle,
            lambda resolution, prefer: make_engine(
                bundle, resolution, prefer=prefer, memories=decoders.files, on_restart=metrics.engine_restarted
            ),
        )
        self._batcher = Batcher[EngineInput, EngineResult](
            self._engines.run,
            limit=self.batch,
            room=lambda: self.capacity,
            most_seconds=max_queue_seconds,
            calls=lambda: self._engines.calls,
            ready=self._engines.ready,
            before=decoders.seconds_to_empty,
            on_batch=metrics.batch,
        )

    async def start(self, resolutions: Sequence[int] = ()) -> None:
        """Load the default resolution and `resolutions`; raises as EngineSupervisor.start does."""
        await self._batcher.__aenter__()
        for resolution in dict.fromkeys([self.bundle.manifest.default_resolution, *resolutions]):
            await self._engines.load(resolution)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model from being closed until the block has ended."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def close(self) -> None:
        """Wait until it is not in use, and end its engines; again is a no-op."""
        if self._closing:
            return
        self._closing = True
        while self._users:
            self._unused.clear()
            await self._unused.wait()
        await self._batcher.__aexit__()
        if self._inspection is not None:
            await self._inspection.close()
        await self._engines.close()
        self.bundle.close()

    def engine(self, resolution: int | None = None) -> tuple[str, str]:
        """Name and precision of what runs `resolution`, or the default one."""
        engine = self._engines.at(self.resolution(resolution))
        return engine.name, engine.precision

    def calibration(self, resolution: int | None = None) -> ScoreCalibration | None:
        """Of the scores at `resolution`, or the default one; None if they are not calibrated."""
        return self._engines.at(self.resolution(resolution)).calibration

    def calibrate(self, calibrations: Calibration) -> None:
        """Make the scores of the answers from now on with `calibrations`."""
        self.calibrations = calibrations
        self._engines.calibrate(calibrations)

    def calibration_command(self, resolution: int) -> str:
        """What calibrates the scores at `resolution`, as a sentence's end."""
        _, precision = self.engine(resolution)
        command = self.bundle.calibrate_command(f"--resolution {resolution} --precision {precision}")
        return f"{command} makes one from labelled images, and a reload of the models reads it"

    def check_coverage(self, resolution: int, coverage: float) -> None:
        """NotCalibrated if no prediction set can be given at `resolution`."""
        activation = self.bundle.manifest.activation
        fitted_threshold(self.calibration(resolution), coverage, activation, self.calibration_command(resolution))

    @property
    def agreement(self) -> dict[int, Agreement]:
        """How the engines agreed with float32 at the export, by resolution; without those in float32."""
        return self._engines.agreement

    def batch(self, resolution: int | None = None) -> int:
        """The most images in an engine call."""
        return self._max_batch or self._engines.at(self.resolution(resolution)).batch

    @property
    def capacity(self) -> int:
        """How many images may wait."""
        images = self._max_queue or max(LEAST_QUEUE_IMAGES, DEFAULT_QUEUE_BATCHES * self.batch())
        return max(1, min(images, self._most_images))

    @property
    def refused(self) -> list[tuple[str, int, str]]:
        """Engines, and ways of decoding, that could be expected to serve and do not; at which resolution, and why."""
        ways = self._decoders.refused.items()
        return self._engines.refused + [(way, at, why) for at in self._engines.started for way, why in ways]

    @property
    def loaded(self) -> list[int]:
        """The resolutions that are ready."""
        return self._engines.loaded

    @property
    def fault(self) -> str | None:
        """Why the default resolution cannot be served now, if so."""
        return self._engines.fault

    @property
    def waiting(self) -> int:
        """How many images are in the queue, without copies."""
        return self._batcher.waiting

    @property
    def inspections_waiting(self) -> int:
        """How many images wait for their explanation or embedding."""
        return 0 if self._inspection is None else self._inspection.waiting

    @property
    def inspection(self) -> ModelInspection:
        """What explains and embeds; its process starts with the first image. NoInspection if the bundle has no graph.

        The model must be in use meanwhile.
        """
        if self._inspection is None:
            self._inspection = ModelInspection(
                self.bundle,
                self._decoders,
                self.metrics.inspection,
                make_inspector=self._make_inspector,
                room=lambda: self.capacity,
                most_seconds=self._max_queue_seconds,
            )
        return self._inspection

    @property
    def expected_seconds(self) -> float:
        """How long the images that wait are expected to take."""
        return self._batcher.expected_seconds

    def check(self, count: int = 1, caller: str = "") -> None:
        """Raise NotReady, or QueueFull if there is no room for `count` images now: a request can be spared its body."""
        self._check_ready()
        self._batcher.check_room(count, caller)

    def resolution(self, requested: int | None) -> int:
        """The resolution to serve; BadParameter if the bundle lacks the one that was requested."""
        return self._engines.resolution(requested)

    async def load(self, resolution: int) -> None:
        """Make `resolution` ready and self-test it; requests at others go on meanwhile."""
        await self._engines.load(resolution)

    async def self_test(self) -> None:
        """Send the golden images through every engine that is loaded; WrongAnswers or NotReady if one fails."""
        self._check_ready()
        await self._engines.self_test()

    def room(self, count: int = 1, caller: str = "") -> AbstractContextManager[list[Place]]:
        """Places in the queue for `count` images until the block ends: all or none, QueueFull."""
        self._check_ready()
        return self._batcher.places(count, caller)

    async def classify(
        self, body: bytes, resolution: int | None = None, deadline: float = math.inf, *, best: int = 0, caller: str = ""
    ) -> ModelAnswer:
        """The answer for the encoded image in `body`.

        Raises BadParameter, QueueFull, and what app.decoding.image_decoding.decode raises.
        """
        resolution = self.resolution(resolution)
        taps = self._drawn_taps(caller)
        with self.room(caller=caller) as (place,):
            answer = await self._classify(place, body, resolution, deadline, 0 if taps else best, caller)
        return self._seen(taps, [body], [answer], best)[0] if taps else answer

    async def seen_pixels(self, body: bytes, resolution: int | None = None) -> NDArray[np.uint8]:
        """What the network sees of the encoded image in `body`, (side, side, 3). Raises as `classify` does."""
        steps = self.bundle.manifest.preprocessing[self.resolution(resolution)]
        block, _ = await self._decoders.decode(body, steps)
        try:
            seen: NDArray[np.uint8] = block.pixels[0].copy()
            return seen
        finally:
            block.release()

    async def classify_all(
        self, bodies: Sequence[bytes], resolution: int | None = None, deadline: float = math.inf, *, caller: str = ""
    ) -> list[ModelAnswer]:
        """An answer with logits for each encoded image. Raises QueueFull for all, or the first error of `classify`."""
        resolution = self.resolution(resolution)
        taps = self._drawn_taps(caller)
        with self.room(len(bodies), caller) as places:
            answers = await together(
                self._classify(place, body, resolution, deadline, 0, caller)
                for place, body in zip(places, bodies, strict=True)
            )
        return self._seen(taps, bodies, answers) if taps else answers

    async def classify_each(
        self,
        bodies: Sequence[bytes],
        resolution: int | None = None,
        deadline: float = math.inf,
        *,
        best: int = 0,
        caller: str = "",
    ) -> list[ModelAnswer | ExplainedError]:
        """An answer or an error for each encoded image. Raises BadParameter, or QueueFull for all."""

        async def outcome(place: Place, body: bytes) -> ModelAnswer | ExplainedError:
            try:
                return await self._classify(place, body, served, deadline, 0 if taps else best, caller)
            except ExplainedError as err:
                return err

        served = self.resolution(resolution)
        taps = self._drawn_taps(caller)
        with self.room(len(bodies), caller) as places:
            outcomes = await together(outcome(place, body) for place, body in zip(places, bodies, strict=True))
        return self._seen_outcomes(taps, bodies, outcomes, best) if taps else outcomes

    async def classify_pixels(
        self, images: PixelBlock, resolution: int, deadline: float = math.inf, *, caller: str = ""
    ) -> list[ModelAnswer]:
        """An answer with logits for each of `images`, which are what the network sees at `resolution`.

        Raises as classify_all. The block is the caller's to release.
        """

        async def classified(place: Place, location: PixelLocation) -> ModelAnswer:
            async with self._in_time(place, deadline):
                now = Interval(began := time.perf_counter(), began)
                return await self._answer(place, EngineInput(location), resolution, deadline, now, now)

        taps = self._drawn_taps(caller)
        with self.room(len(images.locations), caller) as places:
            answers = await together(
                classified(place, location) for place, location in zip(places, images.locations, strict=True)
            )
        return self._seen(taps, images, answers) if taps else answers

    def _drawn_taps(self, caller: str) -> list[AnswerTap]:
        """Those that are to see the answers to a request."""
        if not self.taps or caller == BACKGROUND_CALLER:
            return []
        return [tap for tap in self.taps if tap.wants()]

    def _seen(
        self,
        taps: Sequence[AnswerTap],
        images: Sequence[bytes] | PixelBlock,
        answers: Sequence[ModelAnswer],
        best: int = 0,
    ) -> list[ModelAnswer]:
        """`answers`, which have logits, with the `best` classes that were wanted; the taps have seen them."""
        for tap in taps:
            try:
                tap.see(AnsweredImages(self, images, answers))
            except Exception:  # the client gets its answer
                log.exception("%s: a sampled answer could not be counted", self.bundle.name)
        return [self._with_best(answer, best) for answer in answers]

    def _seen_outcomes(
        self,
        taps: Sequence[AnswerTap],
        bodies: Sequence[bytes],
        outcomes: Sequence[ModelAnswer | ExplainedError],
        best: int,
    ) -> list[ModelAnswer | ExplainedError]:
        """As `_seen`; the taps see the images that were answered."""
        answered = [(body, each) for body, each in zip(bodies, outcomes, strict=True) if isinstance(each, ModelAnswer)]
        seen = iter(self._seen(taps, [body for body, _ in answered], [answer for _, answer in answered], best))
        return [next(seen) if isinstance(each, ModelAnswer) else each for each in outcomes]

    def _with_best(self, answer: ModelAnswer, best: int) -> ModelAnswer:
        """`answer` with what the engine would have given if it had been asked for so many of the best classes."""
        if not best:
            return answer
        temperature = answer.calibration.temperature if answer.calibration else 1.0
        classes = best_classes(answer.outputs[0], best, self.bundle.manifest.activation, temperature)
        return replace(answer, result=replace(answer.result, best=classes))

    async def _classify(
        self, place: Place, body: bytes, resolution: int, deadline: float, best: int, caller: str
    ) -> ModelAnswer:
        async with self._in_time(place, deadline):
            requested = time.perf_counter()
            steps = self.bundle.manifest.preprocessing[resolution]
            pixels, decode = await self._decoders.decode(body, steps, deadline, caller=caller)
            try:
                waited = Interval(requested, decode.start)
                (location,) = pixels.locations
                return await self._answer(place, EngineInput(location, best), resolution, deadline, waited, decode)
            finally:
                pixels.release()

    async def _answer(
        self, place: Place, image: EngineInput, resolution: int, deadline: float, waited: Interval, decode: Interval
    ) -> ModelAnswer:
        await self._engines.load(resolution)
        batched = await self._batcher.submit(place, resolution, image, deadline)
        answer = ModelAnswer(
            result=batched.result,
            resolution=resolution,
            waited=waited,
            decode=decode,
            queue=batched.queue,
            inference=batched.inference,
        )
        if not place.background:
            self.metrics.answered(answer.queued, decode, batched.inference)
        return answer

    @asynccontextmanager
    async def _in_time(self, place: Place, deadline: float) -> AsyncIterator[None]:
        """TooLate once `deadline` has passed; the place in the queue is free afterwards."""
        started = time.perf_counter()
        try:
            async with until_deadline(deadline):
                yield
        except Exception:
            if not place.background:
                self.metrics.failed(time.perf_counter() - started)
            raise
        finally:
            place.leave()

    def _check_ready(self) -> None:
        if self._engines.fault is not None:
            raise NotReady(f"{self.bundle.name}: {self._engines.fault}", retry_after=1)


def _image_bytes(bundle: Bundle) -> int:
    """The bytes of an image's pixels at the largest resolution."""
    return 3 * max(steps.crop for steps in bundle.manifest.preprocessing.values()) ** 2
