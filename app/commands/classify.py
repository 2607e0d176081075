"""`crossvit classify`: classifies many image files with one model, without a server."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.configuration.settings import Settings
from app.errors import BadParameter
from app.serving.assembly import make_decoders, make_model
from app.serving.served_model import ServedModel
from app.telemetry.metrics import Metrics
from bundle.bundle_errors import ExplainedError
from bundle.class_labels import ClassLabel
from bundle.reader import Bundle
from model.files.bad_files import BadFile
from model.files.folders import images_in, read_image_file

T = TypeVar("T")


@dataclass(frozen=True)
class FileResult:
    """The best classes of one file with their scores, or the reason why it has none."""

    path: Path
    classes: list[tuple[ClassLabel, float]] | None = None
    error: str | None = None


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths of files, and the images below the paths of folders (model.files.folders). Raises BadParameter."""
    for path in paths:
        if path.is_dir():
            try:
                yield from (path / name for name in images_in(path))
            except OSError as err:
                raise BadParameter(f"{err.filename} cannot be read: {err.strerror}") from err
        else:
            yield path


@asynccontextmanager
async def offline(bundle: Bundle, settings: Settings) -> AsyncIterator[ServedModel]:
    """A started model of `bundle`, with its own decoders and no server."""
    decoders = make_decoders(settings)
    patient = settings.model_copy(update={"max_queue_seconds": math.inf})  # nobody waits for one image
    model = make_model(patient, bundle, decoders, Metrics(list).model(bundle.name))
    async with decoders:
        try:
            await model.start()
            yield model
        finally:
            await model.close()


def classify_files(
    model: ServedModel, paths: Iterable[Path], top_k: int, resolution: int | None, in_flight: int
) -> AsyncIterator[FileResult]:
    """The result of each path, in order, with up to `in_flight` files under way so that batches fill up."""
    return run_in_order((_classify(model, path, top_k, resolution) for path in paths), in_flight)


async def run_in_order(work: Iterable[Coroutine[Any, Any, T]], in_flight: int) -> AsyncGenerator[T, None]:
    """The results of `work`, in order, with up to `in_flight` under way; closing the generator cancels them."""
    tasks: deque[asyncio.Task[T]] = deque()
    try:
        for coroutine in work:
            tasks.append(asyncio.create_task(coroutine))
            if len(tasks) == in_flight:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _classify(model: ServedModel, path: Path, top_k: int, resolution: int | None) -> FileResult:
    try:
        body = await asyncio.to_thread(read_image_file, path)
        answer = await model.classify(body, resolution, best=top_k)
        return FileResult(path, classes=answer.best(model.bundle.labels))
    except OSError as err:
        return FileResult(path, error=err.strerror or "cannot be read")
    except (BadFile, ExplainedError) as err:
        return FileResult(path, error=str(err))
