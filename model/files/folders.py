"""Which files of a folder are images, and reading one: the same rule for all commands that take folders."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from model.files.bad_files import BadFile
from model.files.formats import OTHER_SUFFIXES, SUFFIXES

MAX_IMAGE_FILE_BYTES = 100_000_000
PASSED_OVER = {  # what systems put beside images: their own folders, and thumbnails
    *("__MACOSX", "@eaDir", "@__thumb", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "lost+found"),
    *("$RECYCLE.BIN", "System Volume Information", "RECYCLER"),
}
_KINDS = [
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
]


def is_image_file(name: str) -> bool:
    """Whether a file of this name, with its folders, is taken for an image: by its suffix, if no part is hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(map(_is_hidden, path.parts))


def images_in(root: Path) -> list[str]:
    """The names of the images below `root`, which may be hidden itself, sorted; OSError for a folder that is closed.

    Symbolic links are followed, but for those to a folder that they lie in. Other than regular files are passed over.
    """
    return files_in(root, is_image_file)


def files_in(root: Path, wanted: Callable[[str], bool]) -> list[str]:
    """The names of the files below `root` that are `wanted`, as `images_in` has those of images."""
    return sorted(filter(wanted, _files(root)), key=lambda name: PurePosixPath(name).parts)


def others_in(roots: Iterable[Path]) -> str:
    """A remark on the images of other formats below `roots`, such as ": 3 of .heic cannot be read, …"; "" if none."""
    found = Counter(PurePosixPath(name).suffix.lower() for root in roots if root.is_dir() for name in _files(root))
    counts = ", ".join(f"{found[suffix]} of {suffix}" for suffix in OTHER_SUFFIXES if found[suffix])
    return f": {counts} cannot be read, convert them to JPEG or PNG" if counts else ""


def read_image_file(path: Path) -> bytes:
    """The bytes of a file. Raises OSError, or BadFile if it is not regular or has over MAX_IMAGE_FILE_BYTES."""
    check_regular(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        _check_kind(status)  # it may be another one by now
        check_length(status.st_size)
        body = file.read(MAX_IMAGE_FILE_BYTES + 1)
        check_length(len(body))
        return body


def check_regular(path: Path) -> None:
    """Raise BadFile if `path` is not a regular file. It is not opened: a pipe or a device may never end."""
    _check_kind(path.stat())


def check_length(length: int) -> None:
    """Raise BadFile if `length` is more than MAX_IMAGE_FILE_BYTES."""
    if length > MAX_IMAGE_FILE_BYTES:
        raise BadFile(f"it has more than {MAX_IMAGE_FILE_BYTES:,} bytes")


def _check_kind(status: os.stat_result) -> None:
    for is_kind, name in _KINDS:
        if is_kind(status.st_mode):
            raise BadFile(f"it is {name}, not a file")


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name in PASSED_OVER


def _files(root: Path) -> Iterator[str]:
    """All regular files below `root` that are not hidden."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    if entry.is_file():
                        yield name
                    elif entry.is_dir() and not (entry.is_symlink() and _leads_back(Path(entry.path))):
                        waiting.append(name)
                except OSError:  # a link to itself, or gone meanwhile
                    continue


def _leads_back(folder: Path) -> bool:
    return any(folder.samefile(around) for around in folder.absolute().parents)
