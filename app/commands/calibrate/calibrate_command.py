"""The command `crossvit calibrate`."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from app.commands.bench.bench_output import BenchFormat
from app.commands.calibrate.calibrate_output import print_calibrations, print_written
from app.commands.calibrate.cascade_fit import CascadeGoal
from app.commands.calibrate.fitted_steps import LabelledImages, cascade_of, fitted_steps
from app.commands.calibrate.score_fit import check_images
from app.commands.evaluate.class_mapping import check_classes, match_classes
from app.commands.evaluate.evaluation import open_data, sample
from app.commands.terminal import check_absent, clear_errors
from app.configuration.settings import Settings, log_remarks
from app.errors import BadParameter
from app.serving.model_engines import served_resolution
from app.telemetry import logs
from bundle.calibration import add_calibrations, check_calibration_writable
from bundle.discovery import bundle_at
from bundle.file_names import CALIBRATION
from bundle.pulled_bundles import bundle_named
from bundle.reader import Bundle, open_bundle
from model.command_line import STOPPED, new_app, notes

main = new_app()

T = TypeVar("T")

_DEFAULT_LOSS = 0.5  # points


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
    cascade: Annotated[
        str | None,
        typer.Option(
            metavar="[BUNDLE:]RESOLUTION",
            help="the dear step of a cascade, whose cheap one is this bundle at --resolution; also of another bundle",
        ),
    ] = None,
    accuracy_loss: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="with --cascade: points that it may be less accurate than its dear step (0.5)"
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="with --cascade: instead, the most images that the dear step has")
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
    its models. With --cascade it also fits the score from which on the cheap step's answer is good enough, for requests
    with resolution=auto. The figures that it prints are of images that were left out of the fit.
    """
    with clear_errors():
        goal = _goal(cascade, accuracy_loss, share)
        if cascade is not None and (len(resolution or []) > 1 or len(precision or []) > 1):
            raise BadParameter("--cascade goes with one --resolution, that of the cheap step, and one --precision")
        first = _settings(bundle, engine, None)
        logs.configure("warning", first.log_format)
        log_remarks()
        opened = open_bundle(bundle_at(first.bundles, first.default_model))
        opened.close()
        check_classes(opened.manifest.classes)
        with _writing(opened.path):
            check_calibration_writable(opened.path)
        data = open_data(paths)
        images = LabelledImages(data, sample(len(data), limit, part), match_classes(data.categories, opened.labels))
        check_images(len(images.indices))
        resolutions = [served_resolution(opened, each) for each in _or_default(resolution)]
        dear_step = None if cascade is None else _dear_step(cascade, opened, resolutions[0])
        try:
            fitted = [
                step
                for each in _or_default(precision)
                for step in asyncio.run(fitted_steps(opened.path, _settings(bundle, engine, each), images, resolutions))
            ]
            dear = None
            if dear_step is not None:
                path, at = dear_step
                own = _settings(path, engine, precision[0] if precision else None)
                (dear,) = asyncio.run(fitted_steps(path, own, images, [at]))
        except KeyboardInterrupt:
            notes.print("stopped: nothing was written", style="yellow")
            raise typer.Exit(STOPPED) from None
        joined = None if dear is None else cascade_of(opened, fitted[0], dear, goal)
        steps = [*fitted, dear] if dear is not None and dear.bundle.path == opened.path else fitted
        calibrations = [step.calibration for step in steps]
        print_calibrations(calibrations, joined, opened.path, output)
        with _writing(opened.path):
            add_calibrations(opened.path, opened.manifest, calibrations, joined)
        print_written(calibrations, opened.path)


@contextmanager
def _writing(bundle: Path) -> Iterator[None]:
    try:
        yield
    except IsADirectoryError as err:
        raise BadParameter(f"{bundle / CALIBRATION} is a folder, and the calibration must go there: remove it") from err
    except OSError as err:
        raise BadParameter(
            f"the calibration cannot be written to {bundle}: {err.strerror}; make room there or make it writable, or "
            "give a copy of the bundle with --bundle"
        ) from err


def _or_default(values: list[T] | None) -> Sequence[T | None]:
    return values or [None]


def _goal(cascade: str | None, accuracy_loss: float | None, share: float | None) -> CascadeGoal:
    if cascade is None:
        check_absent("--cascade", accuracy_loss=accuracy_loss, share=share)
    if accuracy_loss is not None and share is not None:
        raise BadParameter("either --accuracy-loss or --share: one of them fixes the other")
    if share is not None:
        return CascadeGoal(share=share)
    return CascadeGoal(accuracy_loss=(_DEFAULT_LOSS if accuracy_loss is None else accuracy_loss) / 100)


def _dear_step(text: str, first: Bundle, cheap_resolution: int) -> tuple[Path, int]:
    """The bundle and the resolution of the dear step that --cascade names. BadParameter if it cannot be one."""
    name, _, resolution = text.rpartition(":")
    if not resolution.isdecimal():
        raise BadParameter(f"--cascade {text}: must be a resolution of this bundle, or of another one, like BUNDLE:384")
    if not name:
        if int(resolution) == cheap_resolution:
            raise BadParameter(f"both steps of the cascade are {first.name} at {cheap_resolution}")
        return first.path, served_resolution(first, int(resolution))
    with closing(open_bundle(bundle_at([bundle_named(Path(name))], None))) as other:
        if other.labels != first.labels:
            raise BadParameter(f"{other.path} has other classes than {first.path}: their labels differ")
        if other.name == first.name:
            raise BadParameter(f"both bundles are called {first.name}: give one of the folders another name")
        return other.path, served_resolution(other, int(resolution))


def _settings(bundle: Path | None, engine: str | None, precision: str | None) -> Settings:
    options: dict[str, Any] = {"bundle": bundle and bundle_named(bundle), "engine": engine, "precision": precision}
    return Settings(**{name: value for name, value in options.items() if value is not None})
