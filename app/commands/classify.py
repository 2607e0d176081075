"""`crossvit classify`: classifies many image files with one model, without a server."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.errors import BadParameter
from app.serving.explained_classes import ExplainedClass, explained_classes
from app.serving.model_inspection import MOST_WAITING
from app.serving.offline_model import run_in_order
from app.serving.served_model import ServedModel
from bundle.bundle_errors import ExplainedError
from bundle.class_labels import ClassLabel
from model.files.bad_files import BadFile
from model.files.folders import images_in, read_image_file


@dataclass(frozen=True)
class WantedResult:
    """What is wanted of each file.

    Attributes:
        top_k: classes.
        resolution: to classify at; None for the model's own.
        pixels: whether what the network sees is wanted.
        maps: whether the best class is to be explained.
    """

    top_k: int
    resolution: int | None = None
    pixels: bool = False
    maps: bool = False


@dataclass(frozen=True)
class FileResult:
    """The best classes of one file with their scores, or the reason why it has none.

    Attributes:
        seen: what the network sees of it, (side, side, 3), if that is wanted.
        explained: the best class, if that is wanted.
    """

    path: Path
    classes: list[tuple[ClassLabel, float]] | None = None
    error: str | None = None
    seen: NDArray[np.uint8] | None = None
    explained: ExplainedClass | None = None


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


def classify_files(model: ServedModel, paths: Iterable[Path], wanted: WantedResult) -> AsyncIterator[FileResult]:
    """The result of each path, in order, with so many files under way that batches fill up."""
    in_flight = min(model.capacity, MOST_WAITING) if wanted.maps else model.capacity
    return run_in_order((_classify(model, path, wanted) for path in paths), in_flight)


async def _classify(model: ServedModel, path: Path, wanted: WantedResult) -> FileResult:
    try:
        body = await asyncio.to_thread(read_image_file, path)
        answer = await model.classify(body, wanted.resolution, best=wanted.top_k)
        classes = answer.best(model.bundle.labels)
        return FileResult(
            path,
            classes=classes,
            seen=await model.seen_pixels(body, wanted.resolution) if wanted.pixels else None,
            explained=await _explained(model, body, classes[0][0], wanted.resolution) if wanted.maps else None,
        )
    except OSError as err:
        return FileResult(path, error=err.strerror or "cannot be read")
    except (BadFile, ExplainedError) as err:
        return FileResult(path, error=str(err))


async def _explained(model: ServedModel, body: bytes, label: ClassLabel, resolution: int | None) -> ExplainedClass:
    answer = await model.inspection.explain(body, (label.index,), model.resolution(resolution))
    (explained,) = explained_classes(answer.image, model.bundle.manifest.activation)
    return explained
