"""The command `crossvit bench`."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from app.commands.bench import sample_images
from app.commands.bench.bench_output import BenchFormat, BenchReport, print_bench
from app.commands.bench.engine_bench import EngineReport, measure_engine
from app.commands.bench.http_client import LoadClient, NoAnswer
from app.commands.bench.load_generator import Load
from app.commands.bench.server_bench import ServerReport, measure_server
from app.commands.terminal import check_absent, clear_errors
from app.configuration.settings import Settings, log_remarks
from app.errors import BadParameter
from app.telemetry import logs
from bundle.discovery import bundle_at
from bundle.pulled_bundles import bundle_named
from bundle.reader import open_bundle
from model.command_line import STOPPED, error, new_app, notes

T = TypeVar("T", int, float)

main = new_app()

_DEFAULT_CLIENTS = "1,4,16"
_DEFAULT_BATCHES = "1,2,4,8"


@main.command()
def bench(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES",
            help="image files, or folders of them; by default pictures made by code, which decode faster",
        ),
    ] = None,
    url: Annotated[str | None, typer.Option(help="a running server, such as http://127.0.0.1:8000")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="a bundle, or the name of one that was pulled, whose engine is measured without a server"),
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option(help=f"with --url: clients at once, each waiting for its answer ({_DEFAULT_CLIENTS})"),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="with --url, instead of --clients: requests per second, however long the answers take"),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="CROSSVIT_API_KEY",
            help="with --url: the server's key; better set in the environment than typed here",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="with --url: a model of the server; by default its default model")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help=f"with --bundle: images in an engine call ({_DEFAULT_BATCHES})")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="with --bundle, as in `crossvit serve`")] = None,
    precision: Annotated[str | None, typer.Option(help="with --bundle, as in `crossvit serve`")] = None,
    resolution: Annotated[int | None, typer.Option(help="by default the model's own")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="how long each row is measured")] = 10,
    warmup: Annotated[float, typer.Option(min=0, max=86400, help="seconds before that, not measured")] = 2,
    output: Annotated[BenchFormat, typer.Option("--format", help="how to print the figures")] = BenchFormat.TABLE,
) -> None:
    """Measure a running server, or a bundle's engine: throughput, percentiles, and where the time goes.

    Exit code 1 if no server answers at the URL, or no answer has status 200. Ctrl-C prints the figures so far.
    """
    with clear_errors():
        if (url is None) == (bundle is None):
            raise BadParameter("nothing to measure, or two things: give either --url or --bundle")
        report: BenchReport
        if url is not None:
            check_absent("--bundle", batch=batch, engine=engine, precision=precision)
            options = {"model": model, "resolution": resolution, "seconds": seconds, "warmup": warmup}
            report = _measure_server(url, api_key, _loads(clients, rate), _files(images), options)
        else:
            check_absent("--url", clients=clients, rate=rate, model=model)
            chosen: dict[str, Any] = {
                "bundle": bundle and bundle_named(bundle),
                "engine": engine,
                "precision": precision,
            }
            settings = Settings(**{name: value for name, value in chosen.items() if value is not None})
            sizes = _numbers("--batch", batch or _DEFAULT_BATCHES, int)
            report = _measure_engine(settings, sizes, _files(images), resolution, seconds, warmup)
    if not report.rows:
        notes.print("stopped before anything was measured", style="yellow")
        raise typer.Exit(STOPPED)
    print_bench(report, output)
    if report.interrupted:
        raise typer.Exit(STOPPED)
    if isinstance(report, ServerReport) and not any(row.latency_ms for row in report.rows):
        error(f"no request was answered with 200; the last: {report.rows[-1].problem}")
        raise typer.Exit(1)


def _measure_server(
    url: str, key: str | None, loads: Sequence[Load], files: dict[str, bytes], options: dict[str, Any]
) -> ServerReport:
    def print_load(load: Load) -> None:
        _print_progress(f"{load}: {options['warmup']:g} s of warm-up, {options['seconds']:g} s")

    async def measure() -> ServerReport:
        async with LoadClient(url, key) as client:
            return await measure_server(client, list(files.values()), loads, **options, on_load=print_load)

    try:
        return asyncio.run(measure())
    except NoAnswer as err:
        error(f"{url}: {err}")
        raise typer.Exit(1) from err
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED) from None


def _measure_engine(
    settings: Settings,
    sizes: list[int],
    files: dict[str, bytes],
    resolution: int | None,
    seconds: float,
    warmup: float,
) -> EngineReport:
    logs.configure("warning", settings.log_format)
    log_remarks()
    bundle = open_bundle(bundle_at(settings.bundles, settings.default_model))
    try:
        resolution = resolution or bundle.manifest.default_resolution
        if resolution not in bundle.resolutions:
            offered = ", ".join(map(str, bundle.resolutions))
            raise BadParameter(f"resolution {resolution} is not served; one of {offered}")
        _print_progress(f"batches of {sizes}: the engine starts, {warmup:g} s of warm-up, {seconds:g} s each")
        return asyncio.run(
            measure_engine(bundle, settings, files, sizes, resolution=resolution, seconds=seconds, warmup=warmup)
        )
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED) from None
    finally:
        bundle.close()


def _files(paths: Sequence[Path] | None) -> dict[str, bytes]:
    if paths:
        return sample_images.read_sample_images(paths)
    _print_progress("no images given: pictures made by code, which decode faster than photographs")
    return sample_images.synthetic_images()


def _loads(clients: str | None, rate: str | None) -> list[Load]:
    if rate is None:
        return [Load(clients=count) for count in _numbers("--clients", clients or _DEFAULT_CLIENTS, int)]
    if clients is not None:
        raise BadParameter("either --clients or --rate: at a rate the number of requests at once is not fixed")
    return [Load(rate=number) for number in _numbers("--rate", rate, float)]


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """The numbers listed in `text`; BadParameter unless all are from 1/100 to 10,000."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0.01 <= number <= 10_000 for number in numbers):
        raise BadParameter(f"{option} {text}: not numbers from over 0 to 10,000, separated by commas")
    return numbers


def _print_progress(message: str) -> None:
    if notes.is_terminal:
        notes.print(message, style="dim", markup=False, highlight=False)
