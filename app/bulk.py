"""Many image files through one model, without a server."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.bundle import Bundle, Label
from app.errors import ServiceError
from app.metrics import Metrics
from app.model import Model
from app.settings import Settings
from app.wiring import make_decoders, make_model

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its best classes with their scores, or the reason why there are none."""

    path: Path
    classes: list[tuple[Label, float]] | None = None
    error: str | None = None


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given; of folders, all image files below them by their suffix, sorted."""
    for path in paths:
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*") if found.suffix.lower() in SUFFIXES)
        else:
            yield path


@asynccontextmanager
async def offline(bundle: Bundle, settings: Settings) -> AsyncIterator[Model]:
    """A model of `bundle` that serves nobody else."""
    decoders = make_decoders(settings)
    model = make_model(settings, bundle, decoders, Metrics(list).model(bundle.name))
    async with decoders:
        try:
            await model.start()
            yield model
        finally:
            await model.close()


async def classify_files(
    model: Model, paths: Iterable[Path], top_k: int, resolution: int | None, in_flight: int
) -> AsyncIterator[Outcome]:
    """The outcome of each path, in order, with up to `in_flight` files under way so that batches fill up."""
    under_way: deque[asyncio.Task[Outcome]] = deque()
    for path in paths:
        under_way.append(asyncio.create_task(_classify(model, path, top_k, resolution)))
        if len(under_way) == in_flight:
            yield await under_way.popleft()
    while under_way:
        yield await under_way.popleft()


async def _classify(model: Model, path: Path, top_k: int, resolution: int | None) -> Outcome:
    try:
        body = await asyncio.to_thread(path.read_bytes)
        with model.room() as (place,):
            answer = await model.file(place, body, resolution)
        return Outcome(path, classes=answer.best(model.bundle.labels, top_k))
    except OSError as err:
        return Outcome(path, error=err.strerror or "cannot be read")
    except ServiceError as err:
        return Outcome(path, error=str(err))
