"""The folder of a bulk run's results, on disk or in an object store: parts, the listing, and the manifest.

A part is written under another name and moved to its own once it is whole, so a part that is there is whole, and a part
that is written twice is the same. `_bulk/` has the rest; readers of Parquet folders pass names with a `_` over.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from app.bulk.bulk_options import RunManifest
from app.bulk.file_systems import file_system, is_remote, local_path, opening
from app.bulk.source_listing import Unit, UnitListing, write_listing
from app.errors import BadParameter
from bundle.atomic_files import exclusive_lock

COUNTS_KEY = "crossvit.counts"  # of a part's Parquet metadata
MODEL_KEY = "crossvit.model"

_WORK = "_bulk"
_MANIFEST = f"{_WORK}/manifest.json"
_LISTING = f"{_WORK}/listing.parquet"
_READERS = 16  # of the parts' metadata


@dataclass(frozen=True)
class PartCounts:
    """The rows of a part, and how many of them have a problem."""

    rows: int
    problems: int


class ResultFolder:
    """The results at `address`, a path relative to `base`, or a URL. Raises BadParameter where it cannot be used."""

    def __init__(self, address: str, base: str) -> None:
        self.address = address
        self._base = base
        self._files, self._root = file_system(address, base)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Make the folder, and keep other runs on this machine out of it until the block ends.

        BadParameter if it holds anything else than a bulk run, or another run is writing there.
        """
        self._check_free()
        with ExitStack() as stack:
            with opening(self.address):
                self._files.create_dir(self._path(_WORK), recursive=True)
            if not is_remote(self.address):
                try:
                    stack.enter_context(exclusive_lock(local_path(self.address, self._base) / _WORK))
                except BlockingIOError as err:
                    raise BadParameter(f"{self.address}: another run is writing there") from err
            self._remove_leftovers()
            yield

    def manifest(self) -> RunManifest | None:
        """That of the run which the folder was made by; None for a new one. BadParameter if it cannot be read."""
        if not self._exists(_MANIFEST):
            return None
        with opening(f"{self.address}/{_MANIFEST}"), self._files.open_input_file(self._path(_MANIFEST)) as file:
            content = file.read()
        try:
            return RunManifest.model_validate_json(content)
        except ValidationError as err:
            raise BadParameter(f"{self.address}/{_MANIFEST} is of another version, or damaged") from err

    def write_manifest(self, manifest: RunManifest) -> None:
        with self._replacing(_MANIFEST) as file:
            file.write(manifest.model_dump_json(indent=2).encode())

    def write_listing(self, units: Iterable[Unit]) -> None:
        with self._replacing(_LISTING) as file:
            write_listing(units, file)

    def listing(self) -> UnitListing:
        with opening(f"{self.address}/{_LISTING}"):
            return UnitListing(self._files.open_input_file(self._path(_LISTING)))

    @contextmanager
    def part(self, number: int) -> Iterator[Any]:
        """A binary file that becomes the part of unit `number` when the block ends; an exception leaves no trace."""
        with self._replacing(_part_name(number)) as file:
            yield file

    def parts(self) -> dict[int, PartCounts]:
        """The parts that are there and whole, by their numbers."""
        numbers = [number for name in self._names("") if (number := _part_number(name)) is not None]
        with ThreadPoolExecutor(_READERS) as readers:
            found = zip(numbers, readers.map(self._counts, numbers), strict=True)
            return {number: counts for number, counts in found if counts is not None}

    def _check_free(self) -> None:
        if not is_remote(self.address):
            for above in PurePosixPath(self._root).parents:
                if (Path(above) / _MANIFEST).is_file():
                    raise BadParameter(f"{self.address} lies in {above}, which holds a bulk run; name another folder")
        others = [name for name in self._names("") if name != _WORK]
        if others and not self._exists(_MANIFEST):
            raise BadParameter(f"{self.address} holds {others[0]} and no bulk run; name a new or an empty folder")

    def _counts(self, number: int) -> PartCounts | None:
        from pyarrow import parquet

        with suppress(OSError, ValueError, KeyError, TypeError):  # cut off by a power failure: it is made anew
            with self._files.open_input_file(self._path(_part_name(number))) as file:
                metadata = parquet.read_metadata(file)
            return PartCounts(**json.loads(metadata.metadata[COUNTS_KEY.encode()]))
        return None

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Any]:
        partial = self._path(f"{_WORK}/partial-{PurePosixPath(name).name}-{uuid4().hex[:8]}")
        try:
            with self._files.open_output_stream(partial, compression=None) as file:
                yield file
            self._files.move(partial, self._path(name))
        except BaseException:
            with suppress(OSError):
                self._files.delete_file(partial)
            raise

    def _remove_leftovers(self) -> None:
        """Remove what a killed run was writing."""
        for name in self._names(_WORK):
            if name.startswith("partial-"):
                with suppress(OSError):
                    self._files.delete_file(self._path(f"{_WORK}/{name}"))

    def _names(self, folder: str) -> list[str]:
        from pyarrow import fs

        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with opening(self.address):
            return sorted(PurePosixPath(info.path).name for info in self._files.get_file_info(selector))

    def _exists(self, name: str) -> bool:
        from pyarrow import fs

        with opening(self.address):
            return bool(self._files.get_file_info(self._path(name)).type != fs.FileType.NotFound)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


def _part_name(number: int) -> str:
    return f"part-{number:06}.parquet"


def _part_number(name: str) -> int | None:
    path = PurePosixPath(name)
    number = path.stem.removeprefix("part-")
    return int(number) if path.suffix == ".parquet" and path.stem != number and number.isdecimal() else None
