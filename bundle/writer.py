"""Writing a bundle, the one contract between export and serving: a folder that is there whole, or not at all.

`model.onnx` is the graph, `labels.json` the class names in index order, `golden.npz` images with the logits that
PyTorch gave for them; `manifest.json` says what they are and is what a reader checks them against. `engines/` is for
files that a later step builds for one GPU.
"""

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT = 2
MANIFEST = "manifest.json"
MODEL = "model.onnx"
LABELS = "labels.json"
GOLDEN = "golden.npz"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class NotABundle(Exception):
    """The place for a bundle, or for an engine in one, holds something else, which is left alone."""


def read_manifest(bundle: Path) -> dict[str, Any] | None:
    """The manifest of the bundle that stands at `bundle`, or None."""
    try:
        manifest = json.loads((bundle / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


@contextmanager
def replacing_bundle(bundle: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `bundle` if the block ends well, and else leaves no trace.

    At any moment the old bundle or the new one stands. Raises NotABundle before anything is written if there is
    something at `bundle` that is not a bundle.
    """
    if bundle.exists() and not (bundle / MANIFEST).is_file() and (not bundle.is_dir() or any(bundle.iterdir())):
        raise NotABundle(f"{bundle} is there and is no bundle; it is left alone: remove it, or choose another --out")
    bundle = bundle.resolve()
    with beside(bundle) as folder:
        yield folder
        folder.chmod(0o755)
        install(folder, bundle)


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """An empty folder next to `place`, to be filled and then moved by `install`; what is left of it goes at the end."""
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=_prefix(place), dir=place.parent))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # tells a later run that this one is alive
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what is left: the old bundle, or half of the new one
        os.close(lock)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prefix(bundle: Path) -> str:
    return f".{bundle.name}.partial-"


def _aside(bundle: Path) -> Path:
    return bundle.with_name(f".{bundle.name}.aside")


def sweep(bundle: Path) -> None:
    """Remove what killed runs left behind, and put back what one of them had set aside."""
    aside = _aside(bundle)
    if aside.exists():
        if bundle.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(bundle)
    for folder in bundle.parent.glob(f"{glob.escape(_prefix(bundle))}*"):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # its run is alive
        finally:
            os.close(lock)


def install(folder: Path, bundle: Path) -> None:
    """Put `folder` at `bundle`; a bundle that stood there is at `folder` afterwards."""
    try:
        folder.rename(bundle)  # nothing there, or an empty folder
        return
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    try:
        _exchange(folder, bundle)
    except (OSError, AttributeError):
        # No atomic exchange on this system (Linux has it on the usual file systems): the gap is one rename long.
        aside = _aside(bundle)
        bundle.rename(aside)
        try:
            folder.rename(bundle)
        except OSError:
            aside.rename(bundle)
            raise
        shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
