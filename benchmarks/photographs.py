"""The photographs of a benchmark."""

import sys
from pathlib import Path


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
