"""Measuring a bundle's own engine, without a server: engine calls at several batch sizes, and decoding apart."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np

from app.commands.bench.load_summary import Latency, latency
from app.configuration.settings import Settings
from app.decoding.image import decode
from app.engines.process.supervisor import EngineSupervisor
from app.errors import BadParameter
from bundle.bundle_errors import ExplainedError
from bundle.reader import Bundle
from bundle.tensors import Images
from model.preprocess import Pixels

_DECODE_SECONDS = 1.0
_SLICE = 1.0  # seconds of one batch size before the next one's turn: a machine's moods shall hit all of them


@dataclass(frozen=True)
class Decoding:
    """Decoding and resizing an image on one core."""

    images_per_second: float
    latency_ms: Latency


@dataclass(frozen=True)
class Calls:
    """Engine calls of `batch` images; the latency is a call's, the way to the engine's process and back included."""

    batch: int
    calls: int
    images_per_second: float
    latency_ms: Latency


@dataclass
class EngineReport:
    bundle: str
    variant: str
    resolution: int
    engine: str
    precision: str
    best_batch: int
    weights: str
    images: int
    decoding: Decoding
    rows: list[Calls] = field(default_factory=list)
    interrupted: bool = False


def decode_samples(
    bundle: Bundle, images: Mapping[str, bytes], resolution: int, max_pixels: int, *, scaled_jpeg: bool
) -> tuple[list[Pixels], Decoding]:
    """The pixels of all images, and what decoding them took; ExplainedError names the one that is no good."""
    pixels: list[Pixels] = []
    spent: list[float] = []
    for name, body in cycle(images.items()):
        before = time.perf_counter()
        try:
            seen = decode(body, bundle.manifest.preprocessing[resolution], max_pixels, scaled_jpeg=scaled_jpeg)
        except ExplainedError as err:
            raise BadParameter(f"{name}: {err}") from err
        spent.append(time.perf_counter() - before)
        if len(pixels) < len(images):
            pixels.append(seen)
        elif sum(spent) >= _DECODE_SECONDS:
            break
    return pixels, Decoding(round(len(spent) / sum(spent), 3), latency(spent))


async def measure_engine(
    bundle: Bundle,
    settings: Settings,
    images: Mapping[str, bytes],
    batches: Sequence[int],
    *,
    resolution: int,
    seconds: float,
    warmup: float,
) -> EngineReport:
    """Run each of `batches` for `seconds`, in turns; a cancellation ends it with what there is.

    Raises as LiveEngine does, and BadParameter for an image that cannot be decoded.
    """
    pixels, decoding = decode_samples(bundle, images, resolution, settings.max_pixels, scaled_jpeg=settings.scaled_jpeg)
    engine = EngineSupervisor(
        bundle,
        resolution,
        engine=settings.engine,
        precision=settings.precision,
        run_seconds=settings.engine_seconds,
        load_seconds=settings.load_seconds,
    )
    spent: dict[int, list[float]] = {batch: [] for batch in batches}
    interrupted = False
    try:
        await engine.start()
        stacks = {batch: np.stack(list(islice(cycle(pixels), batch))) for batch in batches}
        await _in_turns(engine, stacks, warmup / len(batches), {batch: [] for batch in batches})
        await _in_turns(engine, stacks, seconds, spent)
    except asyncio.CancelledError:  # Ctrl-C
        interrupted = True
    finally:
        await engine.close()
    manifest = bundle.manifest
    rows = [
        Calls(batch, len(calls), round(batch * len(calls) / sum(calls), 3), latency(calls))
        for batch, calls in spent.items()
        if calls
    ]
    return EngineReport(
        bundle.name,
        manifest.variant,
        resolution,
        engine.name,
        engine.precision,
        engine.batch,
        manifest.weights.id,
        len(images),
        decoding,
        rows,
        interrupted,
    )


async def _in_turns(
    engine: EngineSupervisor, stacks: Mapping[int, Images], seconds: float, spent: Mapping[int, list[float]]
) -> None:
    turns = max(1, round(seconds / _SLICE))
    for _ in range(turns):
        for batch, images in stacks.items():
            await engine.run(images)  # the first one after another size is not like the others
            until = time.perf_counter() + seconds / turns
            while (before := time.perf_counter()) < until:
                await engine.run(images)
                spent[batch].append(time.perf_counter() - before)
