"""Reads tar files member by member, with bounds on what their headers make `tarfile` hold."""

import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Self

UNREADABLE_TAR = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError)  # of a damaged one

_MAX_HEADER_BYTES = 1 << 20  # of long names and of records that stand before one member
_HEADERS_WITH_BODY = {  # tarfile reads their bodies whole
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE),
}


def tar_members(stream: Any) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The members of a tar file, compressed or not, in their order, with their contents if they are files.

    A content has to be read before the next member is asked for. No more than one member is in memory. Raises one of
    UNREADABLE_TAR where the file breaks off.
    """
    with _Archive.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            archive.begin_member()
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name} has a negative size")
            yield member, archive.extractfile(member) if member.isfile() else None


class _Header(tarfile.TarInfo):
    """Refuses what has no bound. `_proc_member` is where tarfile lets subclasses in."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Self:
        """As inherited, but a damaged header behind the first one is an error: tarfile takes it for the end."""
        try:
            return super().fromtarfile(tarfile)
        except (_TruncatedHeader, _InvalidHeader) as err:
            raise _ReadError(str(err)) from None

    def _proc_member(self, archive: "_Archive") -> Any:
        if self.type in _HEADERS_WITH_BODY:
            archive.claim(self.size, for_all=self.type == tarfile.XGLTYPE)
        elif self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"{self.name} is a sparse file, which is not read")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_gnusparse_10(self, following: tarfile.TarInfo, *_: object) -> None:
        raise tarfile.ReadError(f"{following.name} is a sparse file, which is not read")


_ReadError = tarfile.ReadError
_TruncatedHeader = tarfile.TruncatedHeaderError  # type: ignore[attr-defined]
_InvalidHeader = tarfile.InvalidHeaderError  # type: ignore[attr-defined]


class _Archive(tarfile.TarFile):
    """Counts the bytes of headers' bodies, and forgets the members that it gave."""

    members: list[tarfile.TarInfo]
    tarinfo = _Header
    _claimed = 0
    _for_all = 0

    def claim(self, size: int, *, for_all: bool) -> None:
        """Count a header's body, which may be for one member or for all. Raises ReadError beyond the bound."""
        self._claimed += size
        self._for_all += size if for_all else 0
        if size < 0 or self._claimed > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes, over the limit of {_MAX_HEADER_BYTES:,}")

    def begin_member(self) -> None:
        self._claimed = self._for_all
        self.members.clear()  # Python before 3.13 keeps all of them
