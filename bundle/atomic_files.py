"""Files and folders that are replaced in one step: at any moment the old one or the new one is there, whole."""

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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# From fcntl.h and linux/fs.h, for renameat2.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_file(path: Path, *parts: bytes, prefix: str = "", mode: int = 0o600) -> None:
    """Write `parts`, one after the other, to `path`, whose folder has to exist. Raises OSError, and leaves no trace.

    The file is written beside `path` first, under a name that begins with `prefix`, or with a dot and the file's name.
    Only its owner can read it, unless `mode` says otherwise.
    """
    descriptor, name = tempfile.mkstemp(prefix=prefix or f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            for part in parts:
                file.write(part)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def check_replaceable(path: Path) -> None:
    """Raise the OSError that `replace_file` raises where `path` is a folder, or nothing can be written there."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
        pass


@contextmanager
def replacing_folder(place: Path) -> Iterator[Path]:
    """An empty folder that replaces `place` when the block ends; an exception leaves `place` as it was."""
    with folder_beside(place) as folder:
        yield folder
        folder.chmod(0o755)
        install_folder(folder, place)


@contextmanager
def folder_beside(place: Path) -> Iterator[Path]:
    """An empty folder next to `place`, for `install_folder`. What is in it at the end of the block is removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(place)
    with ExitStack() as lock:
        folder = _locked_folder(place, lock)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the replaced folder, or half of the new one


def _locked_folder(place: Path, lock: ExitStack) -> Path:
    """A new folder next to `place`. Its lock, held by `lock`, tells later runs that this one is alive."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(place), dir=place.parent))
        with suppress(FileNotFoundError):  # another run took it for a leftover before it was locked
            lock.enter_context(exclusive_lock(folder, wait=True))
            folder.stat()
            return folder


def install_folder(folder: Path, place: Path) -> None:
    """Move `folder` to `place`. A folder that was there is at `folder` afterwards."""
    try:
        folder.rename(place)  # nothing is there, or an empty folder
        return
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    try:
        _exchange(folder, place)
    except (OSError, AttributeError):
        # No atomic exchange on this system (Linux has it on the usual file systems): the gap is one rename long.
        aside = _aside(place)
        place.rename(aside)
        try:
            folder.rename(place)
        except OSError:
            aside.rename(place)
            raise
        shutil.rmtree(aside)


def remove_leftovers(place: Path) -> None:
    """Remove what killed runs left beside `place`, and put back the folder that one of them had moved aside."""
    aside = _aside(place)
    if aside.exists():
        if place.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(place)
    for folder in place.parent.glob(f"{glob.escape(_prefix(place))}*"):
        # BlockingIOError: its run is alive. FileNotFoundError: another run has removed it.
        with suppress(BlockingIOError, FileNotFoundError), exclusive_lock(folder):
            shutil.rmtree(folder, ignore_errors=True)


def remove_all_leftovers(parent: Path) -> None:
    """`remove_leftovers` for every place in `parent`."""
    for path in [*parent.glob(".*.partial-*"), *parent.glob(".*.aside")]:
        remove_leftovers(path.with_name(path.name[1:].rpartition(".")[0]))


@contextmanager
def exclusive_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `folder`. Without `wait`, raises BlockingIOError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, content: object) -> None:
    """Write `content`, indented, for people too. Not atomic: for files in a folder that is."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prefix(place: Path) -> str:
    return f".{place.name}.partial-"


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.aside")


def _exchange(first: Path, second: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
