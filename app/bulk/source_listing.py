"""Lists what sources hold, in units of work: once, before anything is classified, so that all runs mean the same files.

The listing is a Parquet file with one row group for each unit.
"""

import codecs
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, BinaryIO, Literal

from app.bulk.bulk_options import BulkOptions
from app.bulk.file_systems import file_system, is_remote, local_path, opening
from app.bulk.parquet_columns import check_columns
from app.errors import BadParameter
from model.files.folders import files_in, is_image_file, others_in

EntryKind = Literal["image", "tar", "parquet"]

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_PARQUET_SUFFIXES = (".parquet", ".pq")
_LIST_SUFFIXES = (".txt", ".lst")
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


@dataclass(frozen=True)
class SourceEntry:
    """An image file, a tar file, or rows of a Parquet file.

    Attributes:
        kind: which of them.
        address: path or URL; bytes of names that are not UTF-8 are surrogates, as Python has them.
        first: of the rows, the number of the first.
        end: of the rows, the number behind the last; of others the number of images, 0 if it is not known.
    """

    kind: EntryKind
    address: str
    first: int = 0
    end: int = 1


Unit = list[SourceEntry]


def list_sources(sources: Iterable[str], options: BulkOptions, base: str) -> Iterator[SourceEntry]:
    """What `sources` hold, in order: files, folders and prefixes of them, lists of addresses in text files.

    `{0000..0003}` in a source stands for these numbers. Raises BadParameter for a source that is not there, cannot be
    read, or holds nothing, and for one that lies in another.
    """
    sources = list(sources)
    _check_apart(sources, base)
    for source in sources:
        count = 0
        for each in _ranges(source, base):
            for entry in _entries(each, options, base):
                count += 1
                yield entry
        if not count:
            raise BadParameter(f"{source}: no images there{_others(source, options, base)}")


def in_units(entries: Iterable[SourceEntry], size: int) -> Iterator[Unit]:
    """The entries in units of at most `size` images where that is known; a tar file is a unit by itself."""
    unit: Unit = []
    images = 0
    for entry in entries:
        weight = entry.end - entry.first or size
        if unit and images + weight > size:
            yield unit
            unit, images = [], 0
        unit.append(entry)
        images += weight
    if unit:
        yield unit


def write_listing(units: Iterable[Unit], file: BinaryIO) -> None:
    """Write the units to `file`, one after the other: no more than one of them is in memory here."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema({"kind": pa.string(), "address": pa.binary(), "first": pa.int64(), "end": pa.int64()})
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for unit in units:
            rows = [asdict(entry) | {"address": os.fsencode(entry.address)} for entry in unit]
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=len(rows))


class UnitListing:
    """The units that `write_listing` wrote to `file`. `images` is their number; None if it is not known."""

    def __init__(self, file: Any) -> None:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(file)
        self.images = self._count()

    def __len__(self) -> int:
        return int(self._file.num_row_groups)

    def unit(self, number: int) -> Unit:
        rows = self._file.read_row_group(number).to_pylist()
        return [SourceEntry(**row | {"address": os.fsdecode(row["address"])}) for row in rows]

    def _count(self) -> int | None:
        total = 0
        for batch in self._file.iter_batches(columns=["first", "end"]):
            counts = [end - first for first, end in zip(*(column.to_pylist() for column in batch.columns), strict=True)]
            if not all(counts):
                return None
            total += sum(counts)
        return total


def _entries(source: str, options: BulkOptions, base: str) -> Iterator[SourceEntry]:
    name = source.lower()
    if not is_remote(source) and local_path(source, base).is_dir():
        yield from _of_names(source, _local_names(source, options, base), options, base)
    elif name.endswith(_TAR_SUFFIXES):
        _check_there(source, base)
        yield SourceEntry("tar", source, end=0)
    elif name.endswith(_PARQUET_SUFFIXES):
        yield from _parquet_rows(source, options, base)
    elif name.endswith(_LIST_SUFFIXES):
        yield from _listed(source, base)
    elif is_remote(source) and _is_folder(source):
        yield from _of_names(source, _remote_names(source, options), options, base)
    else:
        _check_there(source, base)
        yield SourceEntry("image", source)


def _ranges(source: str, base: str) -> Iterator[str]:
    """`source` with each number of its ranges, such as `{0000..0003}`; as it is if there is a file of this name."""
    found = _RANGE.search(source)
    if found is None or (not is_remote(source) and local_path(source, base).exists()):
        yield source
        return
    for number in range(int(found[1]), int(found[2]) + 1):
        yield from _ranges(f"{source[: found.start()]}{number:0{len(found[1])}}{source[found.end() :]}", base)


def _check_apart(sources: list[str], base: str) -> None:
    """BadParameter if a source is there twice, or lies in another one: its images would be too."""
    places: dict[str, str] = {}
    for source in sources:
        place = source.rstrip("/") if is_remote(source) else os.path.realpath(local_path(source, base))
        if place in places:
            raise BadParameter(f"{source} is given twice")
        places[place] = source
    for place, source in places.items():
        above = place
        while (above := above.rpartition("/")[0]) and above not in places:
            pass
        if above or (place != "/" and place.startswith("/") and "/" in places):
            raise BadParameter(f"{source} lies in {places[above or '/']}, which is given too")


def _check_there(source: str, base: str) -> None:
    from pyarrow import fs

    files, path = file_system(source, base)
    with opening(source):
        kind = files.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise BadParameter(f"there is no {source}")


def _is_wanted(name: str, options: BulkOptions) -> bool:
    """Whether a file of a folder holds images: Parquet files do if a column is named."""
    suffixes = (*_TAR_SUFFIXES, *(_PARQUET_SUFFIXES if options.bytes_column or options.path_column else ()))
    return is_image_file(name) or name.lower().endswith(suffixes)


def _local_names(source: str, options: BulkOptions, base: str) -> list[str]:
    with opening(source):
        return files_in(local_path(source, base), lambda name: _is_wanted(name, options))


def _remote_names(source: str, options: BulkOptions) -> list[str]:
    from pyarrow import fs

    files, root = file_system(source)
    with opening(source):
        found = files.get_file_info(fs.FileSelector(root, recursive=True))
    names = (info.path.removeprefix(root).lstrip("/") for info in found if info.type == fs.FileType.File)
    return sorted(name for name in names if _is_wanted(name, options))


def _is_folder(source: str) -> bool:
    from pyarrow import fs

    if source.endswith("/"):
        return True
    files, path = file_system(source)
    with opening(source):
        kind = files.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise BadParameter(f"there is no {source}")
    return bool(kind == fs.FileType.Directory)


def _of_names(folder: str, names: Iterable[str], options: BulkOptions, base: str) -> Iterator[SourceEntry]:
    for name in names:
        address = f"{folder.rstrip('/')}/{name}"
        if is_image_file(name):
            yield SourceEntry("image", address)
        elif name.lower().endswith(_TAR_SUFFIXES):
            yield SourceEntry("tar", address, end=0)
        else:
            yield from _parquet_rows(address, options, base)


def _listed(source: str, base: str) -> Iterator[SourceEntry]:
    """The images of a list, one path or URL a line; empty lines, and those with a # at their start, do not count."""
    files, path = file_system(source, base)
    with opening(source), files.open_input_file(path) as file:
        for number, line in enumerate(io.BufferedReader(file)):
            address = os.fsdecode((line if number else line.removeprefix(codecs.BOM_UTF8)).strip())
            if address and not address.startswith("#"):
                yield SourceEntry("image", address)


def _parquet_rows(source: str, options: BulkOptions, base: str) -> Iterator[SourceEntry]:
    """Ranges of rows of a Parquet file: whole row groups where they hold bytes, since reading starts at one."""
    from pyarrow import parquet

    files, path = file_system(source, base)
    with opening(source), files.open_input_file(path) as file:
        metadata = parquet.ParquetFile(file).metadata
    check_columns(source, metadata.schema.to_arrow_schema(), options)
    if options.path_column:
        bounds = [*range(0, metadata.num_rows, options.part_size), metadata.num_rows]
    else:
        groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        bounds = _bounds(groups, options.part_size)
    for first, end in pairwise(bounds):
        if end > first:
            yield SourceEntry("parquet", source, first, end)


def _bounds(groups: Iterable[int], size: int) -> list[int]:
    """The bounds of runs of row groups with `size` rows or more each, but for the last run."""
    bounds, row = [0], 0
    for rows in groups:
        row += rows
        if row - bounds[-1] >= size:
            bounds.append(row)
    return bounds if bounds[-1] == row else [*bounds, row]


def _others(source: str, options: BulkOptions, base: str) -> str:
    """A remark on what a source holds instead of images."""
    if is_remote(source):
        return ""
    path = local_path(source, base)
    if not path.is_dir():
        return ""
    if files_in(path, lambda name: name.lower().endswith(_PARQUET_SUFFIXES)) and not options.bytes_column:
        return ", but Parquet files: name their --bytes-column or --path-column"
    return others_in([path])
