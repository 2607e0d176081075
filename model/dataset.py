"""Labelled images on disk, read in place: folders, zip files, WebDataset's tar files; imports no torch.

In a folder an image's class is the name of the folder directly below it, as in torchvision's ImageFolder:
`<class>/…/<image>`; what lies beside the folders of classes, or is hidden, is passed over (model.files.folders). The
same holds in a zip file, which may have a folder around them all. In a tar file it is what `<key>.cls` beside
`<key>.jpg` says, as in WebDataset.
"""

import os
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from model.files.bad_files import BadFile
from model.files.folders import (
    MAX_IMAGE_FILE_BYTES,
    check_length,
    check_regular,
    images_in,
    is_image_file,
    others_in,
    read_image_file,
)
from model.files.formats import SUFFIXES

_MAX_LABEL_BYTES = 1000
_ENCRYPTED_FLAG = 1  # of a zip file's member: APPNOTE, section 4.4.4
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_COMPRESSED = {
    b"\x1f\x8b": "gzip -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
    b"\x28\xb5\x2f\xfd": "zstd -d",
    b"7z\xbc\xaf": "7z x",
    b"Rar!": "unrar x",
}

# Besides OSError, what reading a member of a zip file raises: damaged, of another method, with a password, cut off.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


class BadDataset(ValueError):
    """Files without labelled images, or with unreadable ones; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image: the file it lies in, its name there, and its class. `span` is its place in a tar file, in bytes."""

    source: Path
    name: str
    category: str
    span: tuple[int, int] | None = None


class Dataset:
    """The images in `paths`, in the order of their names; `read` gives an image's bytes, from any process and thread.

    Raises BadDataset if there are none, or a file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.items = [item for path in paths for item in _items(path)]
        self.items.sort(key=lambda item: (item.category, item.name))  # however they are spread over files
        self.categories = _sorted({item.category for item in self.items})
        self._open = threading.local()
        if not self.items:
            raise BadDataset(
                f"no images ({', '.join(SUFFIXES)}) in folders named for their class in {_list(paths)}"
                + others_in(paths)
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        self._open = threading.local()

    def indices(self, categories: Sequence[str]) -> list[int]:
        """The index of each image's class in `categories`. Raises BadDataset, which names a class that is not there."""
        places = {category: place for place, category in enumerate(categories)}
        unknown = [category for category in self.categories if category not in places]
        if unknown:
            raise BadDataset(
                f"{len(unknown)} classes are unknown, such as {unknown[0]!r}; known are {categories[0]!r}, …"
            )
        return [places[item.category] for item in self.items]

    def read(self, index: int) -> bytes:
        """The bytes of image `index`. Raises BadDataset if they cannot be read."""
        item = self.items[index]
        try:
            if item.span is not None:
                return _part(item.source, *item.span)
            if item.source.is_dir():
                return read_image_file(item.source / item.name)
            return _member(self._zip(item.source), item.name)
        except (BadFile, OSError, *_UNREADABLE) as err:
            raise BadDataset(f"cannot read {item.name} in {item.source}: {err}") from err

    def _zip(self, path: Path) -> zipfile.ZipFile:
        """The open file, one a thread; a process that was forked opens its own: position is shared otherwise."""
        if getattr(self._open, "pid", None) != os.getpid():
            self._open.pid, self._open.files = os.getpid(), {}
        files: dict[Path, zipfile.ZipFile] = self._open.files
        if path not in files:
            files[path] = zipfile.ZipFile(path)
        return files[path]


def _items(path: Path) -> Iterable[LabelledImage]:
    try:
        if path.is_dir():
            return [LabelledImage(path, name, name.partition("/")[0]) for name in images_in(path) if "/" in name]
        check_regular(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _by_folder(path, [member.filename for member in archive.infolist() if _is_image(path, member)])
        if tarfile.is_tarfile(path):
            return list(_by_key(path))
        _check_not_compressed(path)
    except FileNotFoundError as err:
        raise BadDataset(f"there is no {path}") from err
    except tarfile.TarError as err:
        raise BadDataset(f"cannot read {path}: {err}; a tar file must be whole and not compressed") from err
    except (BadFile, OSError, zipfile.BadZipFile) as err:
        raise BadDataset(f"cannot read {path}: {err}") from err
    raise BadDataset(f"{path} is not a folder, zip file or tar file")


def _check_not_compressed(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(6)
    for magic, command in _COMPRESSED.items():
        if head.startswith(magic):
            raise BadDataset(
                f"cannot read {path}: it is compressed; a tar file must be whole and not compressed: `{command}` first"
            )


def _is_image(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a member of the zip file at `path` is an image; BadDataset for one that cannot be read here."""
    if (
        member.is_dir()
        or stat.S_ISLNK(member.external_attr >> 16)
        or not is_image_file("/".join(_parts(member.filename)))
    ):
        return False
    if member.flag_bits & _ENCRYPTED_FLAG:
        raise BadDataset(f"cannot read {path}: {member.filename} has a password; unpack it first")
    if member.compress_type not in _METHODS:
        raise BadDataset(
            f"cannot read {path}: {member.filename} is compressed by method {member.compress_type}; "
            "pack it anew by deflate, bzip2 or LZMA, or unpack it"
        )
    return True


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a member. Raises BadFile if it has too many, even if the archive gives a smaller size."""
    check_length(archive.getinfo(name).file_size)
    with archive.open(name) as file:
        body = file.read(MAX_IMAGE_FILE_BYTES + 1)
    check_length(len(body))
    return body


def _part(path: Path, start: int, length: int) -> bytes:
    """`length` bytes of a file from `start`. Raises BadFile if it ends before them, or they are too many."""
    check_length(length)
    with path.open("rb") as file:
        body = os.pread(file.fileno(), length, start)
    if len(body) < length:
        raise BadFile("the file ends before it does")
    return body


def _by_folder(source: Path, names: Sequence[str]) -> list[LabelledImage]:
    """The images of a zip file. Their names stay as written: `./tench/1.jpg` is found only under that name."""
    around = _around(names)
    return [LabelledImage(source, name, parts[around]) for name in names if len(parts := _parts(name)) > around + 1]


def _parts(name: str) -> tuple[str, ...]:
    """The folders of an image and its own name; some zip files have those of Windows, absolute ones, or `..`."""
    path = PureWindowsPath(name) if "\\" in name and "/" not in name else PurePosixPath(name)
    return tuple(part for part in path.parts if part not in (path.anchor, ".."))


def _around(names: Iterable[str]) -> int:
    """How many folders lie around all folders of classes; there are at least two classes."""
    paths = [_parts(name) for name in names]
    shared = next((depth for depth, folders in enumerate(zip(*paths, strict=False)) if len(set(folders)) > 1), 0)
    return shared if all(len(parts) > shared + 1 for parts in paths) else 0


def _sorted(categories: Iterable[str]) -> list[str]:
    """By name; indices, as WebDataset has them, by number."""
    names = sorted(categories)
    return sorted(names, key=int) if all(name.isascii() and name.isdecimal() for name in names) else names


def _by_key(source: Path) -> Iterator[LabelledImage]:
    with tarfile.open(source, "r:") as archive:
        for key, sample in _samples(archive):
            images = [member for member in sample.values() if is_image_file(member.name)]
            label = archive.extractfile(sample["cls"]) if "cls" in sample else None
            category = label.read(_MAX_LABEL_BYTES).decode(errors="replace").strip() if label else ""
            for image in images:
                if image.issparse():
                    raise BadDataset(f"cannot read {image.name} in {source}: it is sparse; pack it without --sparse")
                if not category:
                    raise BadDataset(
                        f"{source}: {image.name} has no class: {key}.cls is missing or empty, or not beside it"
                    )
                yield LabelledImage(source, image.name, category, (image.offset_data, image.size))


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """WebDataset's: files with a common key, which are next to each other, by their extension."""
    last, sample = "", dict[str, tarfile.TarInfo]()
    for member in archive:
        folder, slash, name = member.name.rpartition("/")
        if not member.isfile() or name.startswith("."):
            continue
        stem, _, extension = name.partition(".")
        key, extension = f"{folder}{slash}{stem}", extension.lower()
        if key != last or extension in sample:
            yield last, sample
            last, sample = key, {}
        sample[extension] = member
    yield last, sample


def _list(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "nothing"
