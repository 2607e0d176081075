"""Explains and embeds image files with one bundle, without a server and without the engine that classifies."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app.configuration.settings import Settings
from app.serving.assembly import make_decoders, make_inspector
from app.serving.explanation_fields import BranchChoice, MapKind, drawn_grids, explanation_fields
from app.serving.model_inspection import MOST_WAITING, InspectionAnswer, ModelInspection
from app.serving.offline_model import run_in_order
from app.telemetry.metrics import Metrics
from bundle.bundle_errors import ExplainedError
from bundle.precisions import F32
from bundle.reader import Bundle
from model.files.bad_files import BadFile
from model.files.folders import read_image_file


@dataclass(frozen=True)
class Drawing:
    """How an overlay is drawn: what, of which branches, and how strongly, 0 to 1."""

    kind: MapKind
    branch: BranchChoice
    opacity: float


@dataclass(frozen=True)
class ExplainedFile:
    """The explanation of a file as the service gives it, and its overlay; or the reason why it has none."""

    path: Path
    fields: dict[str, Any] | None = None
    overlay: bytes = b""
    error: str | None = None


@dataclass(frozen=True)
class EmbeddedFile:
    """What the inspection graph says of a file, or the reason why that is not known."""

    path: Path
    answer: InspectionAnswer | None = None
    error: str | None = None


@asynccontextmanager
async def offline_inspection(bundle: Bundle, settings: Settings) -> AsyncIterator[ModelInspection]:
    """What inspects images with `bundle`, with its own decoders. NoInspection if the bundle has no graph for it."""
    decoders = make_decoders(settings)
    async with decoders:
        inspection = ModelInspection(
            bundle,
            decoders,
            Metrics(list).model(bundle.name).inspection,
            make_inspector=partial(make_inspector, settings),
            room=lambda: MOST_WAITING,
            most_seconds=math.inf,  # nobody waits for one image
        )
        try:
            yield inspection
        finally:
            await inspection.close()


def explain_files(
    inspection: ModelInspection,
    bundle: Bundle,
    paths: Iterable[Path],
    classes: tuple[int, ...],
    resolution: int,
    how: Drawing,
) -> AsyncIterator[ExplainedFile]:
    """The explanation of `classes`, as InspectionInput has them, of each file, in order."""
    calibration = bundle.calibration.at(F32, resolution)
    temperature = calibration.temperature if calibration else 1.0

    async def explained(path: Path) -> ExplainedFile:
        try:
            body = await asyncio.to_thread(read_image_file, path)
            answer = await inspection.explain(body, classes, resolution)
            grids = drawn_grids(answer.image, how.kind, how.branch)
            overlay, _ = await inspection.draw(body, grids, how.opacity, resolution)
            return ExplainedFile(path, explanation_fields(bundle, resolution, answer, temperature), overlay)
        except (BadFile, ExplainedError, OSError) as err:
            return ExplainedFile(path, error=_reason(err))

    return run_in_order(map(explained, paths), MOST_WAITING)


def embed_files(inspection: ModelInspection, paths: Iterable[Path], resolution: int) -> AsyncIterator[EmbeddedFile]:
    """What the inspection graph says of each file, in order."""

    async def embedded(path: Path) -> EmbeddedFile:
        try:
            body = await asyncio.to_thread(read_image_file, path)
            (answer,) = await inspection.embed([body], resolution)
            return EmbeddedFile(path, answer)
        except (BadFile, ExplainedError, OSError) as err:
            return EmbeddedFile(path, error=_reason(err))

    return run_in_order(map(embedded, paths), MOST_WAITING)


def _reason(err: Exception) -> str:
    return (err.strerror or "cannot be read") if isinstance(err, OSError) else str(err)
