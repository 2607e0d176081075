"""The images of a unit of work, read one after the other: archives are streamed and never in memory as a whole."""

import asyncio
import tarfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from app.bulk.bulk_options import BulkOptions
from app.bulk.byte_budget import ByteBudget
from app.bulk.file_systems import SourceUnavailable, check_size, file_system, is_remote
from app.bulk.parquet_columns import plain_column
from app.bulk.source_listing import SourceEntry, Unit
from app.bulk.tar_images import UNREADABLE_TAR, tar_members
from app.errors import BadImage, NoImage, TooLarge
from bundle.bundle_errors import ExplainedError
from model.files.folders import is_image_file

_PATHS_AT_ONCE = 256  # rows of a Parquet file without bytes


@dataclass(frozen=True)
class SourceImage:
    """An image of a source: its bytes, where they were read with their archive, or its own address.

    Attributes:
        id: identifies it: path, URL, `ARCHIVE#MEMBER`, or what the id column says.
        address: of its file; empty if it has none.
        body: its bytes, if they are read already.
        held: bytes of the budget that it holds.
        problem: why there are no bytes, if so.
    """

    id: str
    address: str = ""
    body: bytes | None = None
    held: int = 0
    problem: ExplainedError | None = None


@dataclass(frozen=True)
class _Member:
    """An image in an archive, not read yet; `read` has to be called before the next one is asked for."""

    image: SourceImage
    size: int = 0
    read: Callable[[], bytes] | None = None


class UnitReader:
    """Reads units of work.

    Args:
        options: the columns of Parquet files.
        base: the folder that local paths are relative to.
        limit: bytes of an image file; larger ones are not read.
        budget: of the bytes that are in memory.
    """

    def __init__(self, options: BulkOptions, base: str, limit: int, budget: ByteBudget) -> None:
        self._options = options
        self._base = base
        self._limit = limit
        self._budget = budget

    async def images(self, unit: Unit) -> AsyncGenerator[SourceImage, None]:
        """The images of `unit`, each one once. An archive that breaks off ends with an image that has a problem.

        Raises SourceUnavailable.
        """
        for entry in unit:
            if entry.kind == "image":
                yield SourceImage(printable_id(entry.address), entry.address)
                continue
            members = self._tar(entry) if entry.kind == "tar" else self._parquet(entry)
            with closing(members):
                while (member := await asyncio.to_thread(next, members, None)) is not None:
                    yield await self._read(entry, member)

    async def _read(self, entry: SourceEntry, member: _Member) -> SourceImage:
        image = member.image
        if member.read is None:
            return image
        try:
            check_size(member.size, self._limit)
        except TooLarge as err:
            return SourceImage(image.id, problem=err)
        held = await self._budget.take(member.size)
        try:
            return SourceImage(image.id, body=await asyncio.to_thread(member.read), held=held)
        except UNREADABLE_TAR as err:
            self._budget.give_back(held)
            _check_reachable(entry, err)
            return SourceImage(image.id, problem=BadImage(f"the file cannot be read: {err}"))

    def _tar(self, entry: SourceEntry) -> Generator[_Member, None, None]:
        """The images of a tar file, compressed or not, in their order there."""
        count = 0
        try:
            files, path = file_system(entry.address, self._base)
            with files.open_input_stream(path, compression=None) as stream:
                for member, content in tar_members(stream):
                    if member.isdir() or not is_image_file(member.name):
                        continue
                    count += 1
                    name = _member_id(entry.address, member.name)
                    if content is None:  # its bytes may have gone by, or lie outside the archive
                        refusal = NoImage(f"{_kind(member)} in the tar file, which is not followed")
                        yield _Member(SourceImage(name, problem=refusal))
                    else:
                        yield _Member(SourceImage(name), member.size, content.read)
        except UNREADABLE_TAR as err:
            _check_reachable(entry, err)
            yield _broken(entry, f"the tar file breaks off after {count} images: {err}")

    def _parquet(self, entry: SourceEntry) -> Generator[_Member, None, None]:
        """The images of rows `first` to `end` of a Parquet file."""
        from pyarrow import parquet  # here, since it is optional

        columns = self._columns
        number = entry.first
        try:
            files, path = file_system(entry.address, self._base)
            with files.open_input_file(path) as file:
                table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
                groups, row = _groups(table.metadata, entry)
                at_once = 1 if "bytes" in columns else _PATHS_AT_ONCE  # a value may be large, and is there unasked
                for batch in table.iter_batches(at_once, groups, columns=sorted(set(columns.values()))):
                    found = {role: plain_column(batch, name) for role, name in columns.items()}
                    for index in range(batch.num_rows):
                        if entry.first <= row < entry.end:
                            number = row
                            yield self._of_row(entry, row, {role: column[index] for role, column in found.items()})
                        row += 1
        except (OSError, ValueError) as err:  # Arrow's errors are such
            _check_reachable(entry, err)
            yield _broken(entry, f"the Parquet file cannot be read behind row {number}: {err}")

    @property
    def _columns(self) -> dict[str, str]:
        options = self._options
        roles = {"bytes": options.bytes_column, "path": options.path_column, "id": options.id_column}
        return {role: name for role, name in roles.items() if name}

    def _of_row(self, entry: SourceEntry, row: int, values: dict[str, Any]) -> _Member:
        given = {role: value.as_py() for role, value in values.items() if role != "bytes" and value.is_valid}
        address = str(given.get("path", ""))
        name = str(given["id"]) if "id" in given else address or _member_id(entry.address, str(row))
        content = values.get("bytes")
        if content is not None and content.is_valid:
            return _Member(SourceImage(name), content.as_buffer().size, content.as_py)
        if address:
            return _Member(SourceImage(name, address))
        return _Member(SourceImage(name, problem=NoImage("the row has no bytes and no path")))


def printable_id(address: str) -> str:
    r"""`address`, with \udcXX for each byte XX that is not UTF-8."""
    return address.encode(errors="backslashreplace").decode()


def _member_id(address: str, member: str) -> str:
    return printable_id(f"{address}#{member}")


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"it is a {'symbolic' if member.issym() else 'hard'} link to {printable_id(member.linkname)}"
    return "it is no regular file"


def _check_reachable(entry: SourceEntry, err: Exception) -> None:
    """Raise SourceUnavailable for what is not the fault of the entry's own file."""
    if is_remote(entry.address) and isinstance(err, OSError) and not isinstance(err, FileNotFoundError):
        raise SourceUnavailable(f"{entry.address} cannot be read: {err}") from err


def _broken(entry: SourceEntry, why: str) -> _Member:
    return _Member(SourceImage(printable_id(entry.address), problem=BadImage(why)))


def _groups(metadata: Any, entry: SourceEntry) -> tuple[list[int], int]:
    """The row groups that the entry's rows are in, and the number of their first row."""
    groups: list[int] = []
    start = row = 0
    for index in range(metadata.num_row_groups):
        end = row + metadata.row_group(index).num_rows
        if row < entry.end and end > entry.first:
            start = start if groups else row
            groups.append(index)
        row = end
    return groups, start
