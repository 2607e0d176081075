"""Measures a bundle's own engine without a server: engine calls at several batch sizes, and decoding by itself."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np

from app.commands.bench.load_summary import Latency, latency
from app.configuration.settings import Settings
from app.decoding.image_decoding import decode
from app.engines.engine_process.supervisor import EngineSupervisor
from app.errors import BadParameter
from app.serving.assembly import make_engine
from bundle.bundle_errors import ExplainedError
from bundle.reader import Bundle
from bundle.tensors import Images
from model.preprocess import Pixels

_DECODE_SECONDS = 1.0
_TURN_SECONDS = 1.0  # of one batch size before the next one's turn: slow phases of the machine hit all sizes


@dataclass(frozen=True)
class Decoding:
    """Decoding and resizing an image on one core."""

    images_per_second: float
    latency_ms: Latency


@dataclass(frozen=True)
class Calls:
    """Engine calls of `batch` images. The latency of a call includes the way to the engine's process and back."""

    batch: int
    calls: int
    images_per_second: float
    latency_ms: Latency


@dataclass
class EngineReport:
    """The figures of a bundle's engine. It is fastest at batches of `best_batch`; `rows` has one item a batch size."""

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
    """The pixels of all images, and the speed of decoding; BadParameter names an image that cannot be decoded."""
    pixels: list[Pixels] = []
    seconds: list[float] = []
    for name, body in cycle(images.items()):
        before = time.perf_counter()
        try:
            decoded = decode(body, bundle.manifest.preprocessing[resolution], max_pixels, scaled_jpeg=scaled_jpeg)
        except ExplainedError as err:
            raise BadParameter(f"{name}: {err}") from err
        seconds.append(time.perf_counter() - before)
        if len(pixels) < len(images):
            pixels.append(decoded)
        elif sum(seconds) >= _DECODE_SECONDS:
            break
    return pixels, Decoding(round(len(seconds) / sum(seconds), 3), latency(seconds))


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
    """Run batches of each size for `seconds`, in turns; if cancelled, the report has the figures so far.

    Raises as EngineSupervisor does, and BadParameter for an image that cannot be decoded.
    """
    pixels, decoding = decode_samples(bundle, images, resolution, settings.max_pixels, scaled_jpeg=settings.scaled_jpeg)
    engine = make_engine(settings, bundle, resolution)
    call_seconds: dict[int, list[float]] = {batch: [] for batch in batches}
    interrupted = False
    try:
        await engine.start()
        stacks = {batch: np.stack(list(islice(cycle(pixels), batch))) for batch in batches}
        await _run_in_turns(engine, stacks, warmup / len(batches), {batch: [] for batch in batches})
        await _run_in_turns(engine, stacks, seconds, call_seconds)
    except asyncio.CancelledError:  # Ctrl-C
        interrupted = True
    finally:
        await engine.close()
    manifest = bundle.manifest
    rows = [
        Calls(batch, len(calls), round(batch * len(calls) / sum(calls), 3), latency(calls))
        for batch, calls in call_seconds.items()
        if calls
    ]
    return EngineReport(
        bundle=bundle.name,
        variant=manifest.variant,
        resolution=resolution,
        engine=engine.name,
        precision=engine.precision,
        best_batch=engine.batch,
        weights=manifest.weights.id,
        images=len(images),
        decoding=decoding,
        rows=rows,
        interrupted=interrupted,
    )


async def _run_in_turns(
    engine: EngineSupervisor, stacks: Mapping[int, Images], seconds: float, call_seconds: Mapping[int, list[float]]
) -> None:
    turns = max(1, round(seconds / _TURN_SECONDS))
    for _ in range(turns):
        for batch, images in stacks.items():
            await engine.run(images)  # not measured: the first call after another size differs from the next ones
            until = time.perf_counter() + seconds / turns
            while (before := time.perf_counter()) < until:
                await engine.run(images)
                call_seconds[batch].append(time.perf_counter() - before)
