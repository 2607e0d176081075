"""The command `crossvit bulk`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.bulk.bulk_options import DEFAULT_HELD_BYTES, DEFAULT_PART_SIZE, MAX_TOP_K, BulkOptions
from app.bulk.bulk_run import BulkPlan, StartWorkers, local_workers, run_bulk
from app.commands.bulk_progress import BulkProgress
from app.commands.terminal import check_absent, clear_errors
from app.configuration import quantities
from app.configuration.settings import Settings, log_remarks
from app.errors import BadParameter, EngineFailed, EngineHung, NotReady
from app.telemetry import logs
from bundle.installation import require_packages
from bundle.pulled_bundles import bundle_named
from model.command_line import FAILED, error, failures, new_app, notes, sigterm_as_interrupt

main = new_app()


@main.command()
def bulk(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES",
            help="folders, image files, tar files (WebDataset), Parquet files, or lists of addresses (.txt); paths or "
            "URLs, such as s3://bucket/prefix",
        ),
    ],
    out: Annotated[str, typer.Option(help="the folder of the results, a path or a URL; new, or that of the same run")],
    bundle: Annotated[Path | None, typer.Option(help="a bundle, or the name of one that was pulled")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=MAX_TOP_K, help="classes for each image")] = 5,
    resolution: Annotated[int | None, typer.Option(help="the model's default if left out")] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="write the embeddings too")] = False,
    bytes_column: Annotated[str | None, typer.Option(help="of Parquet: the column with the files' bytes")] = None,
    path_column: Annotated[str | None, typer.Option(help="of Parquet: the column with their paths or URLs")] = None,
    id_column: Annotated[str | None, typer.Option(help="of Parquet: the column with their ids")] = None,
    part_size: Annotated[
        int, typer.Option(min=1, help="images of a part: the least that is done anew after a kill")
    ] = DEFAULT_PART_SIZE,
    max_bytes: Annotated[
        str, typer.Option(metavar="BYTES", help="the most memory of image files at once, such as 256MB")
    ] = str(DEFAULT_HELD_BYTES),
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="run on Ray: local, auto, or the address of a cluster")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="with --ray: actors, each with an engine (1)")] = None,
    cpus_per_worker: Annotated[int | None, typer.Option(min=1, help="with --ray: CPUs of each actor (1)")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0, help="with --ray: GPUs of each actor (0)")] = None,
) -> None:
    """Classify any number of images into a folder of Parquet files; the same command goes on after a kill.

    Each image is a row: its id, its best classes, or the problem that the service would answer with. Exit code 0 also
    if there are such rows.
    """
    with clear_errors():
        require_packages(("pyarrow", "fsspec"), "parquet", "this command")
        options = BulkOptions(
            top_k=top_k,
            resolution=resolution,
            embeddings=embeddings,
            bytes_column=bytes_column,
            path_column=path_column,
            id_column=id_column,
            part_size=part_size,
        )
        settings = Settings(bundle=bundle_named(bundle)) if bundle else Settings()
        logs.configure("warning", settings.log_format)
        log_remarks()
        plan = BulkPlan(sources, out, str(Path.cwd()), options, settings, _bytes(max_bytes, settings))
        start: StartWorkers = local_workers
        if ray is None:
            check_absent("--ray", workers=workers, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker)
        else:
            require_packages(("ray",), "ray", "--ray")
            from app.distributed.ray_workers import RayPool, ray_workers

            start = ray_workers(RayPool(ray, workers or 1, cpus_per_worker or 1, gpus_per_worker or 0))
        _run(plan, start)


def _run(plan: BulkPlan, start: StartWorkers) -> None:
    progress = BulkProgress()
    kept = "the same command goes on with the parts that are missing"
    try:
        with sigterm_as_interrupt(), failures((), lambda: kept), progress.shown():
            counts = asyncio.run(run_bulk(plan, start, progress))
    except (OSError, EngineFailed, EngineHung, NotReady) as err:
        error(f"{err}; {kept}")
        raise typer.Exit(FAILED) from err
    answered = counts.rows - counts.problems
    notes.print(
        f"{counts.rows:,} rows: {answered:,} with classes, {counts.problems:,} with a problem: {plan.out}",
        markup=False,
        highlight=False,
    )


def _bytes(text: str, settings: Settings) -> int:
    """The number of bytes of --max-bytes, in which the largest image file has to fit."""
    size = quantities.size(text)
    if not isinstance(size, int) or size < settings.max_body_bytes:
        raise BadParameter(
            f"--max-bytes {text}: a size of at least {settings.max_body_bytes:,} bytes, that of the largest image file "
            "(CROSSVIT_MAX_BODY_BYTES)"
        )
    return size
