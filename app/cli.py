"""The command line: `crossvit serve | pull | classify | explain | evaluate | …`.

Each command imports only what it needs, so that a service is ready sooner.
"""

import asyncio
import os
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.classify_output import ClassifyFormat, open_report
from app.commands.terminal import check_absent, clear_errors
from app.machine.signals import outside
from app.pulling.pull_command import PULL_MODULE, PULL_PACKAGES, QUANTIZATION_PACKAGES
from bundle.installation import NotInstalled, require_packages
from model.command_line import FAILED, MISUSED, error, new_app, notes, run_command

if TYPE_CHECKING:
    from app.commands.classify import WantedResult
    from app.configuration.settings import Settings
    from bundle.reader import Bundle

GRPC_PACKAGES = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf", "google.rpc")

main = new_app()

# These commands pass all their arguments, --help too, to the module that defines their options.
_PASS_ARGUMENTS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@main.callback(invoke_without_command=True)
def crossvit(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """CrossViT image classification: serve a network, classify with it, measure it; train and export your own."""
    if show_version:
        typer.echo(f"crossvit {version('crossvit')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(MISUSED)


@main.command("serve", context_settings=_PASS_ARGUMENTS_ON)
def serve_command(context: typer.Context) -> None:
    """Serve networks, checkpoints or bundles over HTTP."""
    outside.take()
    from app.configuration.settings import Settings

    with clear_errors():
        settings, arguments = Settings.from_command_line(context.args), context.args
        if settings.quantize:
            require_packages(QUANTIZATION_PACKAGES, "quantize", "--quantize")
        if settings.grpc_port is not None:
            require_packages(GRPC_PACKAGES, "grpc", "--grpc-port")
        if settings.sources:
            settings, arguments = _with_bundles(settings, arguments)
        if settings.instances == 1:
            from app.server.service_run import run_service

            status = run_service(settings)
        else:
            from app.instances.parent import run_instances

            status = run_instances(settings, arguments)
    raise typer.Exit(status)


@main.command("classify")
def classify_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS", help="image files, or folders of them")],
    bundle: Annotated[Path | None, typer.Option(help="a bundle, or the name of one that was pulled")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="classes for each image")] = 5,
    resolution: Annotated[int | None, typer.Option(help="the model's default if left out")] = None,
    output: Annotated[ClassifyFormat, typer.Option("--format", help="how to print the answers")] = ClassifyFormat.TABLE,
    html: Annotated[
        Path | None, typer.Option(help="write them as a page with pictures and bars, instead of printing them")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="with --html: what speaks in each picture for its best class")
    ] = False,
) -> None:
    """Classify image files without a server. Exit code 1 if a file could not be classified; the others still are."""
    if not any(path.exists() for path in paths):  # if any does, it is classified
        error(f"{', '.join(map(str, paths))}: no such file")
        raise typer.Exit(FAILED)
    from app.commands.classify import WantedResult, image_files
    from app.configuration.settings import Settings, log_remarks
    from bundle.discovery import bundle_at
    from bundle.pulled_bundles import bundle_named
    from bundle.reader import open_bundle
    from model.files.folders import others_in

    with clear_errors():
        if html is None:
            check_absent("--html", explain=explain or None)
        files = list(image_files(paths))
        if not files:
            error(f"no image files there{others_in(paths)}")
            raise typer.Exit(FAILED)
        settings = Settings(bundle=bundle_named(bundle)) if bundle else Settings()
        log_remarks()
        opened = open_bundle(bundle_at(settings.bundles, settings.default_model))
        if opened.warning:
            notes.print(opened.warning, style="bold red")
        wanted = WantedResult(top_k, resolution, pixels=html is not None, maps=explain)
        failures = asyncio.run(_classify(opened, settings, files, wanted, html or output))
    raise typer.Exit(FAILED if failures else 0)


@main.command("explain", context_settings=_PASS_ARGUMENTS_ON)
def explain_command(context: typer.Context) -> None:
    """Show what the network looked at in image files, as overlays and numbers, without a server."""
    from app.commands.explain_command import main as explain

    raise typer.Exit(run_command(explain, context.args, context.command_path))


@main.command("embed", context_settings=_PASS_ARGUMENTS_ON)
def embed_command(context: typer.Context) -> None:
    """Write the embeddings of image files to a file of NumPy or Parquet, without a server."""
    from app.commands.embed_command import main as embed

    raise typer.Exit(run_command(embed, context.args, context.command_path))


@main.command("bulk", context_settings=_PASS_ARGUMENTS_ON)
def bulk_command(context: typer.Context) -> None:
    """Classify any number of images into a folder of Parquet files; it goes on after a kill, also on Ray."""
    from app.commands.bulk_command import main as classify_in_bulk

    raise typer.Exit(run_command(classify_in_bulk, context.args, context.command_path))


@main.command("evaluate", context_settings=_PASS_ARGUMENTS_ON)
def evaluate_command(context: typer.Context) -> None:
    """Measure the accuracy of a bundle, or of a running server, on labelled images."""
    from app.commands.evaluate.evaluate_command import main as measure

    raise typer.Exit(run_command(measure, context.args, context.command_path))


@main.command("calibrate", context_settings=_PASS_ARGUMENTS_ON)
def calibrate_command(context: typer.Context) -> None:
    """Make a bundle's scores probabilities, with labelled images."""
    from app.commands.calibrate.calibrate_command import main as fit

    raise typer.Exit(run_command(fit, context.args, context.command_path))


@main.command("bench", context_settings=_PASS_ARGUMENTS_ON)
def bench_command(context: typer.Context) -> None:
    """Measure a running server, or a bundle's engine: throughput, percentiles, and where the time goes."""
    from app.commands.bench.bench_command import main as measure

    raise typer.Exit(run_command(measure, context.args, context.command_path))


@main.command("export", context_settings=_PASS_ARGUMENTS_ON)
def export_command(context: typer.Context) -> None:
    """Make a bundle from a checkpoint (export/to_onnx.py)."""
    _run_instead("export.to_onnx", context.args, extra="export", needs=("torch", "onnxscript"))


@main.command("pull", context_settings=_PASS_ARGUMENTS_ON)
def pull_command(context: typer.Context) -> None:
    """Fetch weights and make the bundle of a source, without PyTorch; `crossvit serve SOURCE` does it too."""
    _run_instead(PULL_MODULE, context.args, extra="cpu", needs=PULL_PACKAGES)


@main.command("train", context_settings=_PASS_ARGUMENTS_ON)
def train_command(context: typer.Context) -> None:
    """Train a network, or fine-tune one, on your own images (model/train.py)."""
    _run_instead("model.train", context.args, extra="train", needs=("torch", "kornia", "tensorboard"))


@main.command("models")
def models_command(
    folder: Annotated[
        Path | None, typer.Option(help="folder of further bundles (artifacts, if there is one)", show_default=False)
    ] = None,
) -> None:
    """List the networks, and the bundles of them that were pulled or are in a folder."""
    from app.commands.model_list import print_bundles, print_networks
    from bundle.discovery import find_bundles
    from bundle.pulled_bundles import pulled_bundles

    print_networks()
    places = [folder] if folder else [path for path in (Path("artifacts"),) if path.is_dir()]
    search = find_bundles(*places)
    print_bundles([*(path for paths in pulled_bundles().values() for path in paths), *search.bundles.values()])
    for reason in (*search.faults, *search.passed_over.values()):
        notes.print(f"passed over: {reason}", markup=False, highlight=False)


def _with_bundles(settings: "Settings", arguments: list[str]) -> tuple["Settings", list[str]]:
    """The settings and arguments with the bundles of the sources in their place; those that are not there are made."""
    from app.pulling.source_bundles import bundles_of_sources

    options = {"labels": settings.labels and settings.labels.absolute(), "activation": settings.activation}
    making = [text for name, value in options.items() if value for text in (f"--{name}", str(value))]
    bundles = bundles_of_sources(
        settings.sources, making, lambda line: notes.print(line, markup=False, highlight=False)
    )
    arguments = settings.replace_sources(arguments, bundles)
    return settings.from_command_line(arguments), arguments


def _run_instead(module: str, arguments: list[str], extra: str, needs: Iterable[str]) -> None:
    """Replace this process by another program; exit code 1 if a package that it needs is not installed.

    It is no call: the service's package imports neither the exporter nor PyTorch, which those programs need.
    """
    try:
        require_packages(needs, extra, "this command")
    except NotInstalled as err:
        error(err)
        raise typer.Exit(FAILED) from err
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606


async def _classify(
    bundle: "Bundle", settings: "Settings", files: list[Path], wanted: "WantedResult", output: ClassifyFormat | Path
) -> int:
    """Print the answers, or write them to a page; the number of files without one."""
    from rich.progress import Progress

    from app.commands.classify import classify_files
    from app.commands.classify_html import HtmlReport
    from app.serving.offline_model import offline

    failures = 0
    async with offline(bundle, settings) as model:
        resolution = model.resolution(wanted.resolution)
        if wanted.maps:
            _ = model.inspection  # NoInspection is told before the files are classified
        report = (
            HtmlReport(output, bundle, resolution, len(files), maps=wanted.maps)
            if isinstance(output, Path)
            else open_report(output)
        )
        with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
            bar = progress.add_task("classifying", total=len(files))
            async for outcome in classify_files(model, files, wanted):
                report.add(outcome)
                failures += outcome.error is not None
                progress.advance(bar)
        report.close()
    return failures
