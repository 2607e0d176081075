"""The photographs of a benchmark, and their classes."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from app.commands.evaluate.class_mapping import match_classes
from app.errors import BadParameter
from bundle.class_labels import ClassLabel


def files_in(folder: Path) -> list[Path]:
    """The JPEG files of the folder by their names; ends the program with a sentence if there are none."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    except OSError as err:
        sys.exit(f"error: {folder}: {err.strerror}")
    if not files:
        sys.exit(f"error: no JPEG files in {folder}")
    return files


def photographs(folder: Path) -> list[bytes]:
    """Their content, as `files_in` has it."""
    return [file.read_bytes() for file in files_in(folder)]


def matched_classes(categories: Collection[str], labels: Sequence[ClassLabel]) -> dict[str, ClassLabel]:
    """The model's class of each category, as match_classes has it; ends the program with a sentence if one has none."""
    try:
        return match_classes(categories, labels)
    except BadParameter as err:
        sys.exit(f"error: {err}")
