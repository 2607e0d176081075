"""The photographs of a benchmark."""

from pathlib import Path


def photographs(folder: Path) -> list[bytes]:
    """The content of the folder's JPEG files, by their names. Raises OSError; ValueError if there are none."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise ValueError(f"no JPEG files in {folder}")
    return [file.read_bytes() for file in files]
