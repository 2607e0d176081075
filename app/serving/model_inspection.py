"""Explanations and embeddings of one model: its own queue and batches before the inspection process."""

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.decoding.decoder_memory import PixelBlock, PixelLocation
from app.decoding.overlay_bounds import Grid
from app.decoding.pool import DecoderPool
from app.errors import BadImage, NoInspection, NotAnImage, TooLarge
from app.inspection.inspector import MOST_IMAGES, InspectedImage, InspectionInput, Inspector
from app.serving.batcher import Batcher, Place
from app.serving.together import together
from app.telemetry.metrics import InspectionMetrics
from app.timing import Interval, until_deadline
from bundle.reader import Bundle
from model.crop_windows import Size

MOST_WAITING = 64  # images


@dataclass(frozen=True)
class InspectionAnswer:
    """What the inspection graph says of one image, and when each stage was at work.

    Attributes:
        image: embeddings, and the maps of the classes that were to be explained.
        size: of the upright picture, if it was decoded here.
        stages: by their names, in order.
    """

    image: InspectedImage
    size: Size | None
    stages: list[tuple[str, Interval]]


class ModelInspection:
    """Inspects images with one bundle's inspection graph. `close` it: that finishes what it was given.

    Its methods take a `deadline` and a `caller` as those of ServedModel do, and raise as they do.

    NoInspection at once if the bundle has no inspection graph.

    Args:
        bundle: has the inspection graph.
        decoders: make pixels of encoded images.
        metrics: of this model.
        make_inspector: of the bundle and the options that are the model's.
        room: how many images may wait.
        most_seconds: as for Batcher.
    """

    def __init__(
        self,
        bundle: Bundle,
        decoders: DecoderPool,
        metrics: InspectionMetrics,
        *,
        make_inspector: Callable[..., Inspector],
        room: Callable[[], int],
        most_seconds: float,
    ) -> None:
        if bundle.inspection is None:
            raise NoInspection(
                f"{bundle.name} cannot be explained or embedded: its bundle is of an earlier version; make it again "
                "with crossvit pull or export/to_onnx.py"
            )
        self._bundle = bundle
        self._decoders = decoders
        self._metrics = metrics
        self._inspector = make_inspector(bundle, decoders.files, on_restart=metrics.restarted)
        self._started = False
        self._batcher = Batcher[InspectionInput, InspectedImage](
            self._inspector.inspect,
            limit=lambda _: MOST_IMAGES,
            room=lambda: min(room(), MOST_WAITING),
            most_seconds=most_seconds,
            before=decoders.seconds_to_empty,
            on_batch=lambda _, interval: metrics.call(interval),
        )

    async def close(self) -> None:
        if self._started:
            await self._batcher.__aexit__()
        await self._inspector.close()

    @property
    def waiting(self) -> int:
        """How many images are in the queue."""
        return self._batcher.waiting

    def check(self, count: int = 1, caller: str = "") -> None:
        """Raise QueueFull if there is no room for `count` images now: a request can be spared its body."""
        self._batcher.check_room(count, caller)

    async def explain(
        self, body: bytes, classes: Sequence[int], resolution: int, deadline: float = math.inf, *, caller: str = ""
    ) -> InspectionAnswer:
        """The maps of `classes`, as InspectionInput has them, of the encoded image in `body`."""
        with self._batcher.places(caller=caller) as (place,):
            return await self._inspect(place, body, tuple(classes), resolution, deadline, caller)

    async def embed(
        self,
        bodies: Sequence[bytes],
        resolution: int,
        deadline: float = math.inf,
        *,
        caller: str = "",
        names: Sequence[str] = (),
    ) -> list[InspectionAnswer]:
        """The embeddings of the encoded images. Raises QueueFull for all, or the first error.

        The message of one that is about an image begins with its name, if the images have `names`.
        """

        async def embedded(index: int, place: Place) -> InspectionAnswer:
            try:
                return await self._inspect(place, bodies[index], (), resolution, deadline, caller)
            except (NotAnImage, BadImage, TooLarge) as err:
                raise type(err)(f"{names[index]}: {err}" if names else str(err)) from err

        with self._batcher.places(len(bodies), caller) as places:
            return await together(embedded(index, place) for index, place in enumerate(places))

    async def embed_pixels(
        self, images: PixelBlock, resolution: int, deadline: float = math.inf, *, caller: str = ""
    ) -> list[InspectionAnswer]:
        """The embeddings of `images`, which are what the network sees. The block is the caller's to release."""

        async def embedded(place: Place, location: PixelLocation) -> InspectionAnswer:
            async with self._in_time(place, deadline):
                return await self._answer(place, InspectionInput(location), resolution, deadline, None, [])

        with self._batcher.places(len(images.locations), caller) as places:
            return await together(
                embedded(place, location) for place, location in zip(places, images.locations, strict=True)
            )

    async def draw(
        self,
        body: bytes,
        grids: Sequence[Grid],
        opacity: float,
        resolution: int,
        deadline: float = math.inf,
        *,
        caller: str = "",
    ) -> tuple[bytes, Interval]:
        """The PNG of app.decoding.overlay.draw_overlay for an image that was explained, and when it was drawn."""
        steps = self._bundle.manifest.preprocessing[resolution]
        async with until_deadline(deadline):
            return await self._decoders.overlay(body, steps, grids, opacity, deadline, caller=caller)

    async def _inspect(
        self, place: Place, body: bytes, classes: tuple[int, ...], resolution: int, deadline: float, caller: str
    ) -> InspectionAnswer:
        async with self._in_time(place, deadline):
            requested = time.perf_counter()
            steps = self._bundle.manifest.preprocessing[resolution]
            pixels, size, decode = await self._decoders.decode_and_measure(body, steps, deadline, caller=caller)
            try:
                (location,) = pixels.locations
                stages = [("decoder_wait", Interval(requested, decode.start)), ("decode", decode)]
                image = InspectionInput(location, classes)
                return await self._answer(place, image, resolution, deadline, size, stages)
            finally:
                pixels.release()

    async def _answer(
        self,
        place: Place,
        image: InspectionInput,
        resolution: int,
        deadline: float,
        size: Size | None,
        stages: list[tuple[str, Interval]],
    ) -> InspectionAnswer:
        if not self._started:
            self._started = True
            await self._batcher.__aenter__()
        batched = await self._batcher.submit(place, resolution, image, deadline)
        self._metrics.answered(explained=bool(image.classes))
        stages = [*stages, ("queue", batched.queue), ("inference", batched.inference)]
        return InspectionAnswer(batched.result, size, stages)

    @asynccontextmanager
    async def _in_time(self, place: Place, deadline: float) -> AsyncIterator[None]:
        """TooLate once `deadline` has passed; the place in the queue is free afterwards."""
        try:
            async with until_deadline(deadline):
                yield
        finally:
            place.leave()
