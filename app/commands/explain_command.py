"""The command `crossvit explain`."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table

from app.commands.inspect_files import Drawing, ExplainedFile, explain_files, offline_inspection
from app.commands.inspected_bundle import InspectedBundle, inspected_bundle
from app.commands.terminal import allow_any_file_name, clear_errors, print_table
from app.errors import BadParameter
from app.serving.class_choice import chosen_class
from app.serving.explanation_fields import MOST_EXPLAINED, BranchChoice, MapKind
from model.command_line import FAILED, new_app, notes

main = new_app()

JSON_LINES = "explanations.jsonl"


@main.command()
def explain(
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS", help="image files, or folders of them")],
    out: Annotated[Path, typer.Option(help="the folder for the overlays and explanations.jsonl; made if need be")],
    bundle: Annotated[Path | None, typer.Option(help="a bundle, or the name of one that was pulled")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="the class to explain: index, wnid or label; the best if left out")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=MOST_EXPLAINED, help="explain so many of the best classes (1)")
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="the model's default if left out")] = None,
    branch: Annotated[BranchChoice, typer.Option(help="whose map the overlays show")] = "both",
    kind: Annotated[
        MapKind, typer.Option("--map", help="what they show: contributions to the first class's logit, or attention")
    ] = "contributions",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="of the strongest place in an overlay")] = 0.8,
) -> None:
    """Show what the network looked at in image files, without a server.

    An overlay is a PNG of the picture with the map over it; explanations.jsonl has the numbers of all files, a line
    each, as POST /explain gives them. Exit code 1 if a file could not be explained; the others still are.
    """
    with clear_errors():
        if class_ is not None and top_k is not None:
            raise BadParameter("--class names one class, and --top-k asks for several: leave one of them out")
        inspected = inspected_bundle(paths, bundle, resolution)
        count = min(top_k or 1, inspected.bundle.manifest.classes)
        classes = tuple(-rank for rank in range(1, count + 1))
        if class_ is not None:
            classes = (chosen_class(inspected.bundle.labels, class_),)
        with _open_lines(out) as lines:
            failures = asyncio.run(_explain(inspected, out, lines, classes, Drawing(kind, branch, opacity)))
    raise typer.Exit(FAILED if failures else 0)


def _open_lines(out: Path) -> TextIO:
    allow_any_file_name()
    try:
        out.mkdir(parents=True, exist_ok=True)
        return (out / JSON_LINES).open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as err:
        raise BadParameter(f"--out {out} cannot be written: {err.strerror}") from err


async def _explain(inspected: InspectedBundle, out: Path, lines: TextIO, classes: tuple[int, ...], how: Drawing) -> int:
    """Write all files to `out`, and print what was found; the number of files without an explanation."""
    failures = 0
    table = Table(Column("file", overflow="fold"), "class", "score", "S", "L", Column("overlay", overflow="fold"))
    names = Counter[str]()
    bundle = inspected.bundle
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        bar = progress.add_task("explaining", total=len(inspected.files))
        async with offline_inspection(bundle, inspected.settings) as inspection:
            async for file in explain_files(inspection, bundle, inspected.files, classes, inspected.resolution, how):
                name = _overlay_name(file.path, names)
                _write(file, out / name, lines)
                _add_row(table, file, name)
                failures += file.error is not None
                progress.advance(bar)
    print_table(table)
    return failures


def _write(file: ExplainedFile, overlay: Path, lines: TextIO) -> None:
    content = {"error": file.error} if file.fields is None else {"overlay": overlay.name, **file.fields}
    try:
        lines.write(json.dumps({"path": str(file.path), **content}, ensure_ascii=False) + "\n")
        if file.fields is not None:
            overlay.write_bytes(file.overlay)
    except OSError as err:
        raise BadParameter(f"--out {overlay.parent} cannot be written: {err.strerror}") from err


def _add_row(table: Table, file: ExplainedFile, overlay: str) -> None:
    """The first class, and which shares of its logit the patches of each branch give."""
    path = escape(str(file.path))
    if file.fields is None:
        table.add_row(path, escape(f"error: {file.error}"), style="red")
        return
    best = file.fields["explanations"][0]
    shares = [f"{best['contributions'][branch]['share']:+.0%}" for branch in ("small", "large")]
    table.add_row(path, escape(best["label"]), f"{best['score']:.3f}", *shares, escape(overlay))


def _overlay_name(path: Path, names: Counter[str]) -> str:
    """A name of its own for each file, also for files of one name in several folders."""
    names[path.name] += 1
    number = "" if names[path.name] == 1 else f"-{names[path.name]}"
    return f"{path.name}{number}.png"
