"""The command line: `crossvit serve | classify | evaluate | bench | export | train | models`.

Each command imports only what it needs, so that a service is ready sooner.
"""

import asyncio
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from app.commands.classify_output import ClassifyFormat, open_report
from app.commands.terminal import clear_errors, print_table
from app.machine.signals import outside
from bundle.bundle_errors import BadBundle
from model.command_line import FAILED, MISUSED, error, new_app, notes, run_command
from model.install_advice import install_command
from model.spec import RESOLUTIONS, VARIANTS

if TYPE_CHECKING:
    from app.configuration.settings import Settings
    from bundle.reader import Bundle

main = new_app()

# These commands pass all their arguments, --help too, to the module that defines their options.
_PASS_ARGUMENTS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@main.callback(invoke_without_command=True)
def crossvit(context: typer.Context) -> None:
    """CrossViT image classification: export a checkpoint, serve it, classify with it, measure it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(MISUSED)


@main.command("serve", context_settings=_PASS_ARGUMENTS_ON)
def serve_command(context: typer.Context) -> None:
    """Serve a bundle over HTTP."""
    outside.take()
    from app.configuration.settings import Settings

    with clear_errors():
        settings = Settings.from_command_line(context.args)
        if settings.instances == 1:
            from app.server.service_run import run_service

            status = run_service(settings)
        else:
            from app.instances.parent import run_instances

            status = run_instances(settings, context.args)
    raise typer.Exit(status)


@main.command("classify")
def classify_command(
    paths: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    bundle: Annotated[Path | None, typer.Option(help="folder that export/to_onnx.py wrote")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="classes for each image")] = 5,
    resolution: Annotated[int | None, typer.Option(help="the model's default if left out")] = None,
    output: Annotated[ClassifyFormat, typer.Option("--format", help="how to print the answers")] = ClassifyFormat.TABLE,
) -> None:
    """Classify image files without a server. Exit code 1 if a file could not be classified; the others still are."""
    from app.commands.classify import image_files
    from app.configuration.settings import Settings, log_remarks
    from bundle.discovery import bundle_at
    from bundle.reader import open_bundle
    from model.files.folders import others_in

    with clear_errors():
        settings = Settings(bundle=bundle) if bundle else Settings()
        log_remarks()
        opened = open_bundle(bundle_at(settings.bundle, settings.default_model))
        if opened.warning:
            notes.print(opened.warning, style="bold red")
        files = list(image_files(paths))
        if not files:
            error(f"no image files there{others_in(paths)}")
            raise typer.Exit(FAILED)
        if not any(path.exists() for path in files):  # if any does, it is classified
            error(f"{', '.join(map(str, files))}: no such file")
            raise typer.Exit(FAILED)
        failures = asyncio.run(_classify(opened, settings, files, top_k, resolution, output))
    raise typer.Exit(FAILED if failures else 0)


@main.command("evaluate", context_settings=_PASS_ARGUMENTS_ON)
def evaluate_command(context: typer.Context) -> None:
    """Measure the accuracy of a bundle, or of a running server, on labelled images."""
    from app.commands.evaluate.evaluate_command import main as measure

    raise typer.Exit(run_command(measure, context.args, context.command_path))


@main.command("bench", context_settings=_PASS_ARGUMENTS_ON)
def bench_command(context: typer.Context) -> None:
    """Measure a running server, or a bundle's engine: throughput, percentiles, and where the time goes."""
    from app.commands.bench.bench_command import main as measure

    raise typer.Exit(run_command(measure, context.args, context.command_path))


@main.command("export", context_settings=_PASS_ARGUMENTS_ON)
def export_command(context: typer.Context) -> None:
    """Make a bundle from a checkpoint (export/to_onnx.py)."""
    _run_instead("export.to_onnx", context.args, extra="export", needs=("torch", "onnxscript"))


@main.command("train", context_settings=_PASS_ARGUMENTS_ON)
def train_command(context: typer.Context) -> None:
    """Train a network, or fine-tune one, on your own images (model/train.py)."""
    _run_instead("model.train", context.args, extra="train", needs=("torch", "kornia", "tensorboard"))


@main.command("models")
def models_command(
    folder: Annotated[Path, typer.Option(help="folder of the bundles")] = Path("artifacts"),
) -> None:
    """List the variants of CrossViT, and the bundles made from them."""
    from bundle.discovery import find_bundles

    table = Table(
        Column("variant", no_wrap=True),
        "parameters",
        *(f"GMAC at {side}" for side in RESOLUTIONS),
        "trained at",
        "bundle",
    )
    search = find_bundles(folder)
    others = dict(search.bundles)
    for variant in VARIANTS.values():
        path = others.pop(variant.name, None)
        table.add_row(
            variant.name,
            f"{variant.million_params:.2f} M",
            *(f"{gmacs:.2f}" for gmacs in variant.gmacs),
            str(variant.resolution),
            _describe_bundle(path) if path else "",
        )
    for path in others.values():
        table.add_row("", "", "", "", "", "", _describe_bundle(path))
    print_table(table)
    for reason in filter(None, [search.fault, *search.passed_over.values()]):
        notes.print(f"passed over: {reason}", markup=False, highlight=False)


def _run_instead(module: str, arguments: list[str], extra: str, needs: Iterable[str]) -> None:
    """Replace this process by another program; exit code 1 if a package that it needs is not installed.

    It is no call: the service's package imports neither the exporter nor PyTorch, which those programs need.
    """
    for package in needs:
        if find_spec(package) is None:
            error(f"{package} is not installed: {install_command(extra)} installs what this command needs")
            raise typer.Exit(FAILED)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606


async def _classify(
    bundle: "Bundle",
    settings: "Settings",
    files: list[Path],
    top_k: int,
    resolution: int | None,
    output: ClassifyFormat,
) -> int:
    """Print the answers; the number of files without one."""
    from rich.progress import Progress

    from app.commands.classify import classify_files, offline

    failures = 0
    async with offline(bundle, settings) as model:
        model.resolution(resolution)
        report = open_report(output)
        with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
            bar = progress.add_task("classifying", total=len(files))
            async for outcome in classify_files(model, files, top_k, resolution, in_flight=model.capacity):
                report.add(outcome)
                failures += outcome.error is not None
                progress.advance(bar)
        report.close()
    return failures


def _describe_bundle(folder: Path) -> str:
    from bundle.reader import open_bundle

    try:
        bundle = open_bundle(folder)
    except BadBundle as err:
        return f"damaged: {err}"
    bundle.close()
    manifest = bundle.manifest
    return f"{folder}: {manifest.variant}, {manifest.classes} classes, weights {manifest.weights.id[:19]}"
