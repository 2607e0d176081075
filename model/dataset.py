"""Labelled images on disk, read in place: folders, zip files, WebDataset's tar files; imports no torch.

In a folder an image's class is the name of the folder directly below it, as in torchvision's ImageFolder:
`<class>/…/<image>`; what lies beside the folders of classes, or is hidden, is passed over. The same holds in a zip
file, which may have a folder around them all. In a tar file it is what `<key>.cls` beside `<key>.jpg` says, as in
WebDataset.
"""

import os
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")

# Besides OSError, what reading a member of a zip file raises: damaged, of another method, with a password, cut off.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


class BadDataset(ValueError):
    """Files that hold no labelled images; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image: the file it lies in, its name there, and its class. `span` is its place in a tar file, in bytes."""

    source: Path
    name: str
    category: str
    span: tuple[int, int] | None = None


class Dataset:
    """The images in `paths`, in the order of their names; `read` gives an image's bytes, from any process and thread.

    Raises BadDataset where there are none, or a file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.items = [item for path in paths for item in _items(path)]
        self.items.sort(key=lambda item: (item.category, item.name))  # whatever way they are spread over files
        self.categories = _sorted({item.category for item in self.items})
        self._open = threading.local()
        if not self.items:
            raise BadDataset(f"no images ({', '.join(SUFFIXES)}) in folders named for their class in {_list(paths)}")

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        self._open = threading.local()

    def indices(self, categories: Sequence[str]) -> list[int]:
        """Each image's place in `categories`; BadDataset names a class that is not there."""
        places = {category: place for place, category in enumerate(categories)}
        unknown = [category for category in self.categories if category not in places]
        if unknown:
            raise BadDataset(
                f"{len(unknown)} classes are unknown, such as {unknown[0]!r}; known are {categories[0]!r}, …"
            )
        return [places[item.category] for item in self.items]

    def read(self, index: int) -> bytes:
        """The bytes of image `index`; BadDataset if they cannot be had."""
        item = self.items[index]
        try:
            if item.span is not None:
                with item.source.open("rb") as file:
                    return os.pread(file.fileno(), item.span[1], item.span[0])
            if item.source.is_dir():
                return (item.source / item.name).read_bytes()
            return self._zip(item.source).read(item.name)
        except (OSError, *_UNREADABLE) as err:
            raise BadDataset(f"cannot read {item.name} in {item.source}: {err}") from err

    def _zip(self, path: Path) -> zipfile.ZipFile:
        """The open file, one a thread; a process that was forked opens its own: position is shared otherwise."""
        if getattr(self._open, "pid", None) != os.getpid():
            self._open.pid, self._open.files = os.getpid(), {}
        files: dict[Path, zipfile.ZipFile] = self._open.files
        if path not in files:
            files[path] = zipfile.ZipFile(path)
        return files[path]


def _items(path: Path) -> Iterable[Item]:
    try:
        if path.is_dir():
            return _by_folder(path, _names(path))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
            return _by_folder(path, names, around=_around(names))
        if path.is_file() and tarfile.is_tarfile(path):
            return list(_by_key(path))
    except tarfile.TarError as err:
        raise BadDataset(f"cannot read {path}: {err}; a tar file must be whole and not compressed") from err
    except (OSError, zipfile.BadZipFile) as err:
        raise BadDataset(f"cannot read {path}: {err}") from err
    raise BadDataset(f"{path} is no folder, zip file or tar file" if path.exists() else f"there is no {path}")


def _names(root: Path) -> Iterator[str]:
    """All files below `root`, symbolic links followed, but for those to a folder that they lie in."""
    for folder, folders, files in os.walk(root, onerror=_raise, followlinks=True):
        inside = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _leads_back(Path(folder, name))]
        yield from (str(inside / file) for file in files)


def _raise(err: OSError) -> None:
    raise err


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and any(folder.samefile(around) for around in folder.absolute().parents)


def _by_folder(source: Path, names: Iterable[str], around: int = 0) -> list[Item]:
    """The images among `names`, which stay as they are written: a zip file finds `./tench/1.jpg` under that name alone.

    Their class is the folder below the outermost ones, of which there are `around`.
    """
    return [Item(source, name, parts[around]) for name in names if len(parts := _image(name)) > around + 1]


def _image(name: str) -> tuple[str, ...]:
    """The folders of an image, and its own name; nothing if it is none, or is hidden."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)  # thumbnails, .ipynb_checkpoints
    return parts if PurePosixPath(name).suffix.lower() in SUFFIXES and not hidden else ()


def _around(names: Iterable[str]) -> int:
    """How many folders lie around all those of classes, of which there are two at least."""
    paths = [parts for name in names if (parts := _image(name))]
    shared = next((depth for depth, folders in enumerate(zip(*paths, strict=False)) if len(set(folders)) > 1), 0)
    return shared if all(len(parts) > shared + 1 for parts in paths) else 0


def _sorted(categories: Iterable[str]) -> list[str]:
    """By name; indices, as WebDataset has them, by number."""
    names = sorted(categories)
    return sorted(names, key=int) if all(name.isascii() and name.isdecimal() for name in names) else names


def _by_key(source: Path) -> Iterator[Item]:
    with tarfile.open(source, "r:") as archive:
        for key, sample in _samples(archive):
            images = [member for extension, member in sample.items() if f".{extension}" in SUFFIXES]
            said = archive.extractfile(sample["cls"]) if "cls" in sample else None
            category = said.read().decode(errors="replace").strip() if said else ""
            for image in images:
                if not category:
                    raise BadDataset(
                        f"{source}: {image.name} has no class: {key}.cls is missing or empty, or not beside it"
                    )
                yield Item(source, image.name, category, (image.offset_data, image.size))


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
