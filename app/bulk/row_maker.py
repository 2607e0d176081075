"""From an image's bytes to its row, by the served model: a bulk run has the answers of the service."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from app.bulk.bulk_options import BulkOptions
from app.bulk.byte_budget import ByteBudget
from app.bulk.file_systems import check_size, read_image
from app.bulk.result_rows import ResultRow, answered_row, problem_row
from app.bulk.source_listing import Unit
from app.bulk.unit_images import SourceImage, UnitReader
from app.configuration.settings import Settings
from app.decoding.content_kind import file_refusal
from app.errors import BadImage, EngineFailed, EngineHung, NoImage, NotAnImage, NotReady, TooLarge
from app.serving.model_inspection import MOST_WAITING
from app.serving.offline_model import run_in_order
from app.serving.served_model import ModelAnswer, ServedModel
from model.spec import VARIANTS

UNITS_AT_ONCE = 2  # the second one keeps the engine busy while the first one ends

_OF_THE_IMAGE = (NoImage, NotAnImage, BadImage, TooLarge)
_OF_THE_ENGINE = (EngineFailed, EngineHung, NotReady)  # it is restarted meanwhile
_ATTEMPTS = 5


class RowMaker:
    """Makes rows with `model`. What is wrong with an image is in its row; everything else is raised.

    Args:
        model: started, with the resolution loaded.
        options: of the run.
        settings: the limits of images.
        base: the folder that local paths are relative to.
        budget: of the encoded images in memory.
    """

    def __init__(
        self, model: ServedModel, options: BulkOptions, settings: Settings, base: str, budget: ByteBudget
    ) -> None:
        self._model = model
        self._options = options
        self._limit = settings.max_body_bytes
        self._base = base
        self._budget = budget
        self._reader = UnitReader(options, base, self._limit, budget)
        room = min(model.capacity, MOST_WAITING) if options.embeddings else model.capacity
        self._in_flight = max(1, room // UNITS_AT_ONCE)

    @property
    def embedding_width(self) -> int | None:
        """The numbers of an embedding; None if none is wanted."""
        if not self._options.embeddings:
            return None
        return sum(VARIANTS[self._model.bundle.manifest.variant].dims)

    async def of_unit(self, unit: Unit) -> AsyncGenerator[ResultRow, None]:
        """The rows of a unit's images, in their order. Raises SourceUnavailable, and what the engine raises."""
        async with (
            aclosing(self._reader.images(unit)) as images,
            aclosing(run_in_order((self._row(image) async for image in images), self._in_flight)) as rows,
        ):
            async for row in rows:
                yield row

    async def of_bytes(self, bodies: Sequence[bytes | None]) -> list[ResultRow]:
        """The rows of images in memory, in their order; their ids are empty. Raises what the engine raises."""
        missing = NoImage("the row has no bytes")
        images = (SourceImage("", body=body, problem=missing if body is None else None) for body in bodies)
        return [row async for row in run_in_order(map(self._row, images), self._in_flight)]

    async def _row(self, image: SourceImage) -> ResultRow:
        held = image.held
        try:
            if image.problem is not None:
                raise image.problem
            body = image.body
            if body is None:
                held = await self._budget.take(self._limit)
                body = await asyncio.to_thread(read_image, image.address, self._base, self._limit)
                self._budget.give_back(held - len(body))
                held = len(body)
            check_size(len(body), self._limit)
            return await self._answered(image.id, body)
        except _OF_THE_IMAGE as err:
            return problem_row(image.id, err)
        finally:
            self._budget.give_back(held)

    async def _answered(self, image_id: str, body: bytes) -> ResultRow:
        if refusal := file_refusal(body):
            raise refusal
        answer = await self._patiently(body)
        embedding = await self._embedding(body) if self._options.embeddings else None
        return answered_row(image_id, answer.best(self._model.bundle.labels), embedding)

    async def _patiently(self, body: bytes) -> ModelAnswer:
        """The answer; an engine that failed gets some attempts more, since it is no property of the image."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._model.classify(body, self._options.resolution, best=self._options.top_k)
            except _OF_THE_ENGINE:
                await asyncio.sleep(attempt)
        return await self._model.classify(body, self._options.resolution, best=self._options.top_k)

    async def _embedding(self, body: bytes) -> NDArray[np.float32]:
        resolution = self._model.resolution(self._options.resolution)
        (inspected,) = await self._model.inspection.embed([body], resolution)
        return np.concatenate(inspected.image.embeddings_of("both"))
