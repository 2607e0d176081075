"""Folders of tests: their content, control groups, and folders of other users."""

import os
from pathlib import Path

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is in `folder`, links and hidden files too; None for what is not a file."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def control_group(root: Path, **files: str) -> Path:
    """A file system with a control group's files; in the names, "__" stands for "/" and "___" for "."."""
    for name, text in files.items():
        path = root / name.replace("___", ".").replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
