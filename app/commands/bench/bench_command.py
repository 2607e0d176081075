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
from app.commands.terminal import STOPPED, absent, clear_errors, error, notes
from app.configuration.settings import Settings, log_remarks
from app.errors import BadParameter
from app.telemetry import logs
from bundle.discovery import bundle_at
from bundle.reader import open_bundle

T = TypeVar("T", int, float)

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_CLIENTS, _BATCHES = "1,4,16", "1,2,4,8"


@main.command()
def bench(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="image files, or folders of them; left out, pictures made by code, which decode faster"),
    ] = None,
    url: Annotated[str | None, typer.Option(help="a running server, such as http://127.0.0.1:8000")] = None,
    bundle: Annotated[Path | None, typer.Option(help="a bundle, whose engine is measured without a server")] = None,
    clients: Annotated[
        str | None, typer.Option(help=f"with --url: so many at once, each waiting for its answer ({_CLIENTS})")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="with --url, instead of clients: requests a second, however long answers take")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="CROSSVIT_API_KEY", help="with --url: the server's key, best not typed here")
    ] = None,
    model: Annotated[str | None, typer.Option(help="with --url: the server's default model if left out")] = None,
    batch: Annotated[str | None, typer.Option(help=f"with --bundle: images in an engine call ({_BATCHES})")] = None,
    engine: Annotated[str | None, typer.Option(help="with --bundle, as `crossvit serve` has it")] = None,
    precision: Annotated[str | None, typer.Option(help="with --bundle, as `crossvit serve` has it")] = None,
    resolution: Annotated[int | None, typer.Option(help="the model's own if left out")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="how long each row is measured")] = 10,
    warmup: Annotated[float, typer.Option(min=0, max=86400, help="seconds before that, not measured")] = 2,
    output: Annotated[BenchFormat, typer.Option("--format", help="how to print the figures")] = BenchFormat.TABLE,
) -> None:
    """Measure a running server, or a bundle's engine: throughput, percentiles, and where the time goes.

    Exit code 1 if there is no server at the URL, or none of its answers a good one. Ctrl-C prints what was measured.
    """
    with clear_errors():
        if (url is None) == (bundle is None):
            raise BadParameter("say what to measure: either --url or --bundle")
        report: BenchReport
        if url is not None:
            absent("--bundle", batch=batch, engine=engine, precision=precision)
            files = _files(images)
            asked = {"model": model, "resolution": resolution, "seconds": seconds, "warmup": warmup}
            report = _measured_server(url, api_key, _loads(clients, rate), files, asked)
        else:
            absent("--url", clients=clients, rate=rate, model=model)
            given: dict[str, Any] = {"bundle": bundle, "engine": engine, "precision": precision}
            settings = Settings(**{name: value for name, value in given.items() if value is not None})
            sizes = _numbers("--batch", batch or _BATCHES, int)
            report = _measured_engine(settings, sizes, _files(images), resolution, seconds, warmup)
    if not report.rows:
        notes.print("stopped before anything was measured", style="yellow")
        raise typer.Exit(STOPPED)
    print_bench(report, output)
    if report.interrupted:
        raise typer.Exit(STOPPED)
    if isinstance(report, ServerReport) and not any(row.latency_ms for row in report.rows):
        error(f"no request was answered with 200; the last: {report.rows[-1].problem}")
        raise typer.Exit(1)


def _measured_server(
    url: str, key: str | None, loads: Sequence[Load], files: dict[str, bytes], asked: dict[str, Any]
) -> ServerReport:
    def tell(load: Load) -> None:
        _say(f"{load}: {asked['warmup']:g} s to warm up, {asked['seconds']:g} s")

    async def measure() -> ServerReport:
        async with LoadClient(url, key) as client:
            return await measure_server(client, list(files.values()), loads, **asked, on_load=tell)

    try:
        return asyncio.run(measure())
    except NoAnswer as err:
        error(f"{url}: {err}")
        raise typer.Exit(1) from err
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED) from None


def _measured_engine(
    settings: Settings,
    sizes: list[int],
    files: dict[str, bytes],
    resolution: int | None,
    seconds: float,
    warmup: float,
) -> EngineReport:
    logs.configure("warning", settings.log_format)
    log_remarks()
    bundle = open_bundle(bundle_at(settings.bundle, settings.default_model))
    try:
        resolution = resolution or bundle.manifest.default_resolution
        if resolution not in bundle.resolutions:
            offered = ", ".join(map(str, bundle.resolutions))
            raise BadParameter(f"resolution {resolution} is not served; one of {offered}")
        _say(f"batches of {sizes}: the engine starts, {warmup:g} s to warm up, {seconds:g} s each")
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
    _say("no images given: pictures made by code, which decode faster than photographs")
    return sample_images.synthetic_images()


def _loads(clients: str | None, rate: str | None) -> list[Load]:
    if rate is None:
        return [Load(clients=count) for count in _numbers("--clients", clients or _CLIENTS, int)]
    if clients is not None:
        raise BadParameter("either --clients or --rate: at a rate there are as many requests at once as it takes")
    return [Load(rate=each) for each in _numbers("--rate", rate, float)]


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """What `text` lists; BadParameter unless they are all from 1/100 to 10,000."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0.01 <= number <= 10_000 for number in numbers):
        raise BadParameter(f"{option} {text}: not numbers with commas between, over 0 and up to 10,000")
    return numbers


def _say(message: str) -> None:
    if notes.is_terminal:
        notes.print(message, style="dim", markup=False, highlight=False)
