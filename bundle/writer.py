"""Putting a bundle in its place: the folder is there whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundle.atomic_files import replacing_folder
from bundle.bundle_errors import NotABundle
from bundle.file_names import MANIFEST


def check_bundle_place(bundle: Path) -> None:
    """Raise NotABundle if there is something at `bundle` that is not one, which no bundle may replace."""
    if bundle.exists() and not (bundle / MANIFEST).is_file() and (not bundle.is_dir() or any(bundle.iterdir())):
        raise NotABundle(f"{bundle} exists and is not a bundle; it is not touched: remove it, or choose another --out")


@contextmanager
def replacing_bundle(bundle: Path) -> Iterator[Path]:
    """An empty folder that replaces `bundle` when the block ends; an exception leaves `bundle` as it was.

    A link is followed. Raises NotABundle, before anything is written, if something at `bundle` is not a bundle.
    """
    check_bundle_place(bundle)
    with replacing_folder(bundle.resolve()) as folder:
        yield folder
