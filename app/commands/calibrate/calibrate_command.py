"""The command `crossvit calibrate`."""

import asyncio
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from app.commands.bench.bench_output import BenchFormat
from app.commands.calibrate.calibrate_output import print_calibrations
from app.commands.calibrate.labelled_logits import labelled_logits
from app.commands.calibrate.score_fit import fit_scores
from app.commands.classify import offline
from app.commands.evaluate.class_mapping import check_classes, match_classes
from app.commands.evaluate.evaluation import open_data, sample
from app.commands.terminal import clear_errors
from app.configuration.settings import Settings, log_remarks
from app.errors import BadParameter
from app.serving.served_model import ServedModel
from app.telemetry import logs
from bundle.calibration import ScoreCalibration, add_calibrations, scored_graph
from bundle.class_labels import ClassLabel
from bundle.discovery import bundle_at
from bundle.pulled_bundles import bundle_named
from bundle.reader import open_bundle
from model.command_line import STOPPED, new_app, notes
from model.dataset import Dataset

main = new_app()


@main.command()
def calibrate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="folders or zip files of <class>/<image>, or WebDataset's tar files"),
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="the bundle, or the name of a pulled one; by default that of CROSSVIT_BUNDLE")
    ] = None,
    resolution: Annotated[
        list[int] | None,
        typer.Option(help="one that is served, may be given several times; by default the model's own"),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="as in `crossvit serve`")] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="one that is served, may be given several times; by default what `crossvit serve` takes here"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="number of images, evenly spread, always the same")] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="the K-th of N parts of the images; keep the others to evaluate on"),
    ] = None,
    output: Annotated[BenchFormat, typer.Option("--format", help="how to print the figures")] = BenchFormat.TABLE,
) -> None:
    """Make a bundle's scores probabilities, with labelled images that it was not trained on.

    It fits a temperature, and the thresholds of prediction sets, for each resolution and precision, and writes them
    into the bundle's calibration.json; nothing else of the bundle changes. A running service reads them when it reloads
    its models. The figures that it prints are of images that were left out of the fit.
    """
    with clear_errors():
        first = _settings(bundle, engine, None)
        logs.configure("warning", first.log_format)
        log_remarks()
        opened = open_bundle(bundle_at(first.bundles, first.default_model))
        opened.close()
        check_classes(opened.manifest.classes)
        data = open_data(paths)
        truths = match_classes(data.categories, opened.labels)
        indices = sample(len(data), limit, part)
        try:
            fitted = [
                calibration
                for each in precision or [None]
                for calibration in asyncio.run(
                    _calibrate(_settings(bundle, engine, each), opened.path, data, indices, truths, resolution)
                )
            ]
        except KeyboardInterrupt:
            notes.print("stopped: nothing was written", style="yellow")
            raise typer.Exit(STOPPED) from None
        try:
            add_calibrations(opened.path, opened.manifest, fitted)
        except OSError as err:
            raise BadParameter(f"the calibration cannot be written to {opened.path}: {err.strerror}") from err
        print_calibrations(fitted, opened.path, output)


def _settings(bundle: Path | None, engine: str | None, precision: str | None) -> Settings:
    options = {"bundle": bundle and bundle_named(bundle), "engine": engine, "precision": precision}
    return Settings(**{name: value for name, value in options.items() if value is not None})


async def _calibrate(
    settings: Settings,
    path: Path,
    data: Dataset,
    indices: Sequence[int],
    truths: Mapping[str, ClassLabel],
    resolutions: Sequence[int] | None,
) -> list[ScoreCalibration]:
    """The calibrations in one precision, at each of `resolutions`, by default the model's own."""
    async with offline(open_bundle(path), settings) as model:
        wanted = list(dict.fromkeys(map(model.resolution, resolutions or [None])))
        return [await _fitted(model, resolution, data, indices, truths) for resolution in wanted]


async def _fitted(
    model: ServedModel, resolution: int, data: Dataset, indices: Sequence[int], truths: Mapping[str, ClassLabel]
) -> ScoreCalibration:
    await model.load(resolution)
    engine, precision = model.engine(resolution)
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        bar = progress.add_task(f"{precision} at {resolution}", total=len(indices))
        found = await labelled_logits(model, resolution, data, indices, truths, lambda: progress.advance(bar))
    if found.failed:
        notes.print(f"{found.failed} of {len(indices)} images have no answer and are left out", style="yellow")
    manifest = model.bundle.manifest
    fit = await asyncio.to_thread(fit_scores, found.logits, found.truths, manifest.activation)
    return ScoreCalibration(
        precision=precision,
        resolution=resolution,
        fitted_for=scored_graph(manifest, precision, resolution),
        temperature=fit.temperature,
        sets=fit.sets,
        images=fit.images,
        data=tuple(dict.fromkeys(data.items[index].source.name for index in found.indices)),
        fitted_with=f"crossvit {version('crossvit')}, {engine}",
        top1=fit.top1,
        ece_before=fit.ece_before,
        ece_after=fit.ece_after,
        nll_before=fit.nll_before,
        nll_after=fit.nll_after,
    )
