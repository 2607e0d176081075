"""A bulk run, or the rest of one that was killed: which parts are missing, and who makes them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from app.bulk.bulk_options import DEFAULT_HELD_BYTES, BulkModel, BulkOptions, RunManifest
from app.bulk.byte_budget import ByteBudget
from app.bulk.file_systems import is_remote
from app.bulk.part_writer import PartWriter
from app.bulk.result_folder import PartCounts, ResultFolder
from app.bulk.row_maker import UNITS_AT_ONCE, RowMaker
from app.bulk.source_listing import Unit, UnitListing, in_units, list_sources
from app.configuration.settings import Settings
from app.errors import BadParameter
from app.serving.offline_model import offline
from app.serving.together import together
from bundle.discovery import bundle_at
from bundle.reader import Bundle, open_bundle

AUTO_PRECISION = "auto"

_READERS = 32  # threads: an object store answers many at once, each slowly


@dataclass(frozen=True)
class BulkPlan:
    """A bulk run.

    Attributes:
        sources: paths and URLs.
        out: the folder of the results, a path or a URL.
        base: the folder that local paths are relative to.
        options: what is wanted.
        settings: of the bundle, the engine, and the limits of images.
        held_bytes: the most bytes of encoded images in a worker's memory.
    """

    sources: list[str]
    out: str
    base: str
    options: BulkOptions
    settings: Settings
    held_bytes: int = DEFAULT_HELD_BYTES


class BulkWorkers(Protocol):
    """What writes parts.

    Attributes:
        model: what answers.
        at_once: how many units they work on.
    """

    model: BulkModel
    at_once: int

    async def write(self, number: int, unit: Unit) -> PartCounts: ...


OnRows = Callable[[int], None]
StartWorkers = Callable[[BulkPlan, OnRows], AbstractAsyncContextManager[BulkWorkers]]


class RunProgress(Protocol):
    """Is told how far a run is."""

    def remark(self, text: str) -> None: ...

    def begin(self, total: int | None, done: int, parts: int, parts_done: int) -> None: ...

    def rows(self, count: int) -> None: ...


async def run_bulk(plan: BulkPlan, start: StartWorkers, progress: RunProgress) -> PartCounts:
    """Make the parts that are missing; the counts of all of them. Raises BadParameter, SourceUnavailable, OSError."""
    folder = ResultFolder(plan.out, plan.base)
    with folder.in_use():
        earlier = folder.manifest()
        bundle = open_bundle(bundle_at(plan.settings.bundles, plan.settings.default_model))
        try:
            if bundle.warning:
                progress.remark(bundle.warning)
            wanted_resolution(bundle, plan.options.resolution)
            if earlier is not None:
                plan = _going_on(plan, bundle, earlier)
            else:
                folder.write_listing(
                    in_units(list_sources(plan.sources, plan.options, plan.base), plan.options.part_size)
                )
            listing = folder.listing()
            done = folder.parts()
            left = [number for number in range(len(listing)) if number not in done]
            progress.begin(listing.images, sum(each.rows for each in done.values()), len(listing), len(done))
            if left:
                async with start(plan, progress.rows) as workers:
                    manifest = _manifest(plan, workers.model)
                    if earlier is None:
                        folder.write_manifest(manifest)
                    else:
                        manifest.check_same(earlier, plan.out)
                    done |= await _write_parts(workers, listing, left)
        finally:
            bundle.close()
    return PartCounts(sum(each.rows for each in done.values()), sum(each.problems for each in done.values()))


def wanted_resolution(bundle: Bundle, resolution: int | None) -> int:
    """`resolution`, or the bundle's default. BadParameter if the bundle is not for it."""
    wanted = bundle.manifest.default_resolution if resolution is None else resolution
    if wanted not in bundle.resolutions:
        raise BadParameter(f"resolution {wanted} is not served; one of {', '.join(map(str, bundle.resolutions))}")
    return wanted


@asynccontextmanager
async def local_workers(plan: BulkPlan, on_rows: OnRows) -> AsyncIterator[BulkWorkers]:
    """One worker, in this process, on all CPUs that it may use."""
    async with started_writer(plan, on_rows) as worker:
        yield worker


@dataclass
class StartedWriter:
    """A PartWriter with its model."""

    writer: PartWriter
    model: BulkModel
    at_once: int = UNITS_AT_ONCE

    async def write(self, number: int, unit: Unit) -> PartCounts:
        return await self.writer.write(number, unit)


@asynccontextmanager
async def started_rows(
    settings: Settings, options: BulkOptions, base: str, held_bytes: int
) -> AsyncIterator[tuple[RowMaker, BulkModel]]:
    """What makes rows, with its model loaded. Raises as open_bundle and ServedModel.start do."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_READERS))
    bundle = open_bundle(bundle_at(settings.bundles, settings.default_model))
    async with offline(bundle, settings) as model:
        resolution = model.resolution(options.resolution)
        await model.load(resolution)
        if options.embeddings:
            _ = model.inspection  # NoInspection is told before images are read
        rows = RowMaker(model, options, settings, base, ByteBudget(held_bytes))
        yield rows, BulkModel.of(bundle, resolution, model.engine(resolution)[1])


@asynccontextmanager
async def started_writer(plan: BulkPlan, on_rows: OnRows) -> AsyncIterator[StartedWriter]:
    """What writes parts of `plan` in this process."""
    async with started_rows(plan.settings, plan.options, plan.base, plan.held_bytes) as (rows, model):
        folder = ResultFolder(plan.out, plan.base)
        yield StartedWriter(PartWriter(folder, rows, model, lambda: on_rows(1)), model)


def _going_on(plan: BulkPlan, bundle: Bundle, earlier: RunManifest) -> BulkPlan:
    """`plan` in the precision of the run that it goes on with; BadParameter if anything else differs."""
    wanted = plan.settings.precision
    precision = earlier.model.precision if wanted == AUTO_PRECISION else wanted
    _manifest(plan, _model(bundle, plan, precision)).check_same(earlier, plan.out)
    return replace(plan, settings=plan.settings.model_copy(update={"precision": precision}))


def _manifest(plan: BulkPlan, model: BulkModel) -> RunManifest:
    """Where all sources are URLs, the folder that paths are relative to does not matter."""
    folder = "" if all(map(is_remote, plan.sources)) else plan.base
    return RunManifest.of(plan.sources, folder, plan.options, plan.settings, model)


def _model(bundle: Bundle, plan: BulkPlan, precision: str) -> BulkModel:
    return BulkModel.of(bundle, wanted_resolution(bundle, plan.options.resolution), precision)


async def _write_parts(workers: BulkWorkers, listing: UnitListing, left: list[int]) -> dict[int, PartCounts]:
    done: dict[int, PartCounts] = {}
    numbers = iter(left)

    async def work() -> None:
        for number in numbers:
            done[number] = await workers.write(number, listing.unit(number))

    await together(work() for _ in range(workers.at_once))
    return done
