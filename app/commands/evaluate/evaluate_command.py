"""The command `crossvit evaluate`."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from app.commands.bench.bench_output import BenchFormat
from app.commands.bench.http_client import NoAnswer
from app.commands.evaluate.answers_csv import open_answers
from app.commands.evaluate.bundle_source import DEFAULT_COVERAGE, bundle_source
from app.commands.evaluate.evaluate_output import EvaluationReport, make_report, print_evaluation
from app.commands.evaluate.evaluation import ImageOutcome, PredictionSource, open_data, run, sample
from app.commands.evaluate.http_source import http_source
from app.commands.terminal import check_absent, clear_errors
from app.configuration.settings import Settings, log_remarks
from app.errors import BadParameter
from app.telemetry import logs
from bundle.calibration import LEAST_COVERAGE, MOST_COVERAGE
from bundle.pulled_bundles import bundle_named
from model.command_line import STOPPED, error, new_app, notes

OpenSource = Callable[[Collection[str]], AbstractAsyncContextManager[PredictionSource]]

main = new_app()

_DEFAULT_CLIENTS = 16


@main.command()
def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="folders or zip files of <class>/<image>, or WebDataset's tar files"),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="the bundle whose engine is asked, or the name of a pulled one; by default that of CROSSVIT_BUNDLE"
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="with --bundle, as in `crossvit serve`")] = None,
    precision: Annotated[str | None, typer.Option(help="with --bundle, as in `crossvit serve`")] = None,
    scaled_jpeg: Annotated[bool | None, typer.Option(help="with --bundle, as in `crossvit serve`")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="ENGINE:PRECISION", help="with --bundle: compare with a second engine")
    ] = None,
    against_bundle: Annotated[
        Path | None, typer.Option(help="with --bundle: compare with a second bundle of the same classes")
    ] = None,
    url: Annotated[str | None, typer.Option(help="a running server instead, such as http://127.0.0.1:8000")] = None,
    model: Annotated[
        str | None, typer.Option(help="with --url: a model of the server; by default its default model")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="CROSSVIT_API_KEY",
            help="with --url: the server's key; better set in the environment than typed here",
        ),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, max=256, help=f"with --url: requests at once ({_DEFAULT_CLIENTS})")
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="by default the model's own")] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            min=LEAST_COVERAGE,
            max=MOST_COVERAGE,
            help=f"with --bundle: of the prediction sets, if the scores are calibrated ({DEFAULT_COVERAGE})",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="number of images, evenly spread, always the same")] = None,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="the K-th of N parts of the images, such as 2/2")
    ] = None,
    top_classes: Annotated[int, typer.Option(min=0, help="how many of the worst classes the table shows")] = 10,
    output: Annotated[BenchFormat, typer.Option("--format", help="how to print the figures")] = BenchFormat.TABLE,
    plot: Annotated[Path | None, typer.Option(help="write a reliability diagram to this PNG file")] = None,
    answers: Annotated[Path | None, typer.Option(help="write a row for each image to this CSV file")] = None,
) -> None:
    """Measure the accuracy of a bundle, or of a running server, on labelled images.

    A class of the data is the model's class of this wnid, or of this label, or of this index if all are whole numbers.
    Exit code 1 if an image has no answer; the figures are of the others. Ctrl-C prints the figures so far.
    """
    own = {"engine": engine, "precision": precision, "scaled_jpeg": scaled_jpeg}
    with clear_errors(), _exit_on_stop():
        draw = _make_draw(plot)
        if url is None:
            check_absent("--url", model=model, clients=clients)
            settings = _settings(bundle=bundle and bundle_named(bundle), **own)
            open_source = partial(
                bundle_source,
                settings=settings,
                second=_second(own, settings, against, against_bundle),
                resolution=resolution,
                coverage=coverage or DEFAULT_COVERAGE,
            )
            logs.configure("warning", settings.log_format)
            log_remarks()
        else:
            if bundle is not None:
                raise BadParameter("either --url or --bundle")
            check_absent("--bundle", against=against, against_bundle=against_bundle, coverage=coverage, **own)
            open_source = partial(
                http_source,
                url=url,
                key=api_key,
                clients=clients or _DEFAULT_CLIENTS,
                model=model,
                resolution=resolution,
            )
        report = _measure(paths, limit, part, open_source, answers)
        try:
            print_evaluation(report, output, top_classes)
        except OSError as err:
            raise BadParameter(f"the figures cannot be printed: {err.strerror}") from err
        finally:
            draw(report)
    if report.interrupted:
        raise typer.Exit(STOPPED)
    raise typer.Exit(1 if report.errors else 0)


def _measure(
    paths: Sequence[Path], limit: int | None, part: str | None, open_source: OpenSource, answers: Path | None
) -> EvaluationReport:
    data = open_data(paths)
    indices = sample(len(data), limit, part)

    async def measure(write: Callable[[ImageOutcome], None]) -> EvaluationReport:
        async with open_source(data.categories) as source:
            with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
                bar = progress.add_task("evaluating", total=len(indices))

                def watch(outcome: ImageOutcome) -> None:
                    write(outcome)
                    progress.advance(bar)

                return make_report([str(path) for path in paths], await run(data, indices, source, watch), source)

    with open_answers(answers) as write:
        return asyncio.run(measure(write))


def _settings(**options: Any) -> Settings:
    return Settings(**{name: value for name, value in options.items() if value is not None})


def _second(own: dict[str, Any], first: Settings, against: str | None, against_bundle: Path | None) -> Settings | None:
    """The second engine's settings: those of the first, except what the options say."""
    if against is None and against_bundle is None:
        return None
    if against is not None:
        engine, colon, precision = against.partition(":")
        if not (engine and colon and precision):
            raise BadParameter(f"--against {against}: must be like openvino:f32")
        own = own | {"engine": engine, "precision": precision}
    return _settings(bundle=bundle_named(against_bundle) if against_bundle else first.bundle, **own)


def _make_draw(plot: Path | None) -> Callable[[EvaluationReport], None]:
    """A function that draws a report's diagram; BadParameter before anything is measured if it cannot be drawn."""
    if plot is None:
        return lambda _: None
    if not plot.absolute().parent.is_dir():
        raise BadParameter(f"--plot {plot}: the folder does not exist")
    try:
        from app.commands.evaluate.reliability_plot import draw_reliability
    except ImportError as err:
        raise BadParameter("--plot needs matplotlib: pip install matplotlib") from err

    def draw(report: EvaluationReport) -> None:
        try:
            if report.figures is not None:
                draw_reliability(report.figures, str(report.model), plot)
        except OSError as err:
            raise BadParameter(f"{plot} cannot be written: {err.strerror}") from err

    return draw


@contextmanager
def _exit_on_stop() -> Iterator[None]:
    """Exit with code 1 if the server does not answer, with the usual code 130 after Ctrl-C."""
    try:
        yield
    except NoAnswer as err:
        error(err)
        raise typer.Exit(1) from err
    except KeyboardInterrupt:
        notes.print("stopped before anything was measured", style="yellow")
        raise typer.Exit(STOPPED) from None
