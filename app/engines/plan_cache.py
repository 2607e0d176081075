"""Where ONNX Runtime's TensorRT provider keeps what it built. A plan is code, so nobody else may write there."""

import os
from pathlib import Path

from app.engines.engine import Refused


def private_folder(*names: str) -> Path:
    """A folder of these names in each other, below XDG_CACHE_HOME or ~/.cache, made if it is not there.

    Refused if it cannot be made, or another user owns it or may write to it.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "crossvit", "ort-tensorrt")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("", *names):
            folder /= name
            folder.mkdir(exist_ok=True, mode=0o700)
            _check(folder)
    except OSError as err:
        raise Refused(f"no folder for TensorRT's plans: {err}. Let XDG_CACHE_HOME be one that is writable") from err
    return folder


def _check(folder: Path) -> None:
    found = folder.stat(follow_symlinks=False)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Refused(f"{folder} is another user's, or open to others, and plans are code: remove it, or chmod 700 it")
