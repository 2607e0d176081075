"""Prints the networks, and the bundles that were made from them."""

from collections.abc import Iterable
from pathlib import Path

from rich.table import Column, Table

from app.commands.terminal import print_table
from bundle.bundle_errors import BadBundle
from bundle.reader import open_bundle
from model.spec import RESOLUTIONS, VARIANTS


def print_networks() -> None:
    """Print a table of the networks, less than 80 columns wide."""
    numbers = ("size", *(f"GMAC {side}" for side in RESOLUTIONS), "trained")
    table = Table(Column("network", no_wrap=True), *(Column(name, justify="right") for name in numbers))
    for variant in VARIANTS.values():
        gmacs = (f"{gmacs:.2f}" for gmacs in variant.gmacs)
        table.add_row(variant.name, f"{variant.million_params:.2f} M", *gmacs, str(variant.resolution))
    print_table(table)


def print_bundles(folders: Iterable[Path]) -> None:
    """Print what each of these bundles is, and where."""
    described = [f"{folder.name}: {_describe_bundle(folder)}\n  {folder}" for folder in folders]
    print("\n".join(described or ["no bundles yet: crossvit pull NETWORK makes one"]))


def _describe_bundle(folder: Path) -> str:
    try:
        bundle = open_bundle(folder)
    except BadBundle as err:
        return f"damaged: {err}"
    bundle.close()
    manifest = bundle.manifest
    precisions = ", ".join(bundle.graphs)
    return f"{manifest.variant}, {manifest.classes} classes, {precisions}, weights {manifest.weights.id[:19]}"
