"""The command `crossvit embed`."""

import asyncio
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress

from app.commands.embedding_files import Embeddings, embedding_writer
from app.commands.inspect_files import embed_files, offline_inspection
from app.commands.inspected_bundle import InspectedBundle, inspected_bundle
from app.commands.terminal import allow_any_file_name, clear_errors
from app.serving.explanation_fields import BranchChoice, with_length_one
from model.command_line import FAILED, error, new_app, notes

main = new_app()


@main.command()
def embed(
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS", help="image files, or folders of them")],
    out: Annotated[Path, typer.Option(help="the file to write: .npy, .npz or .parquet")],
    bundle: Annotated[Path | None, typer.Option(help="a bundle, or the name of one that was pulled")] = None,
    resolution: Annotated[int | None, typer.Option(help="the model's default if left out")] = None,
    branch: Annotated[BranchChoice, typer.Option(help="whose numbers to write")] = "both",
    normalize: Annotated[bool, typer.Option(help="give each embedding the length 1")] = False,
) -> None:
    """Write the embeddings of image files, without a server.

    A .npz file has the arrays `paths` and `embeddings`, a .parquet file the columns `path` and `embedding`; files that
    could not be embedded are left out. A .npy file has a row for each file in their order, of NaN for those that could
    not be embedded. Bytes of names that are not UTF-8 are written as \\udcXX. Exit code 1 if there are any.
    """
    with clear_errors():
        write = embedding_writer(out)
        inspected = inspected_bundle(paths, bundle, resolution)
        embeddings = asyncio.run(_embedded(inspected, branch, normalize))
        found = np.array([not np.isnan(row).all() for row in embeddings])
        if not found.any():
            error("no file could be embedded")
            raise typer.Exit(FAILED)
        if out.suffix == ".npy":
            write(inspected.files, embeddings)
        else:
            write([path for path, is_there in zip(inspected.files, found, strict=True) if is_there], embeddings[found])
    notes.print(f"{int(found.sum())} embeddings of {embeddings.shape[1]} numbers: {out}", markup=False, highlight=False)
    raise typer.Exit(0 if found.all() else FAILED)


async def _embedded(inspected: InspectedBundle, branch: BranchChoice, normalize: bool) -> Embeddings:
    """A row for each file, of NaN where there is none; the errors are printed."""
    rows: list[Embeddings | None] = []
    allow_any_file_name()
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        bar = progress.add_task("embedding", total=len(inspected.files))
        async with offline_inspection(inspected.bundle, inspected.settings) as inspection:
            async for file in embed_files(inspection, inspected.files, inspected.resolution):
                row = None
                if file.answer is None:
                    error(f"{file.path}: {file.error}")
                else:
                    whole = np.concatenate(file.answer.image.embeddings_of(branch))
                    row = with_length_one(whole) if normalize else whole
                rows.append(row)
                progress.advance(bar)
    width = next((len(row) for row in rows if row is not None), 0)
    return np.stack([np.full(width, np.nan, np.float32) if row is None else row for row in rows])
