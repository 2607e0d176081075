"""Many image files through one model, without a server."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import ServiceError
from app.model import Answer, Model

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


@dataclass(frozen=True)
class Outcome:
    """What became of one file: an answer, or the reason why there is none."""

    path: Path
    answer: Answer | None = None
    error: str | None = None


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given; of folders, all image files below them by their suffix, sorted."""
    for path in paths:
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*") if found.suffix.lower() in SUFFIXES)
        else:
            yield path


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
        return Outcome(path, answer=await model.classify(body, top_k, resolution))
    except OSError as err:
        return Outcome(path, error=err.strerror or "cannot be read")
    except ServiceError as err:
        return Outcome(path, error=str(err))
