"""Tar files whose headers claim more than there is, or than fits."""

import gzip
import io
import tarfile
import tracemalloc

import pytest

from app.bulk.tar_images import UNREADABLE_TAR, tar_members


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    file.seek(0)
    return file


def header(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_with_a_large_body_is_not_read(kind: bytes) -> None:
    info = header("long", kind)
    info.size = 50_000_000
    raw = info.tobuf(tarfile.USTAR_FORMAT) + bytes(info.size) + bytes(1024)
    tracemalloc.start()
    try:
        with pytest.raises(tarfile.ReadError, match="a header of 50,000,000 bytes, over the limit of 1,048,576"):
            list(tar_members(io.BytesIO(raw)))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_many_headers_before_one_member_are_refused() -> None:
    info = header("long", tarfile.GNUTYPE_LONGNAME)
    info.size = 1 << 19
    one = info.tobuf(tarfile.USTAR_FORMAT) + bytes(info.size)
    with pytest.raises(tarfile.ReadError, match="over the limit"):
        list(tar_members(io.BytesIO(one * 3)))
    info.size = 1
    nested = (info.tobuf(tarfile.USTAR_FORMAT) + bytes(512)) * 2000
    with pytest.raises(UNREADABLE_TAR):
        list(tar_members(io.BytesIO(nested)))


def test_long_names_and_contents_come_through() -> None:
    name = "folder/" * 40 + "0.jpg"
    found = [
        (member.name, content.read() if content else None)
        for member, content in tar_members(archive_of((header(name), b"one"), (header("1.jpg"), b"two")))
    ]
    assert found == [(name, b"one"), ("1.jpg", b"two")]


def test_members_are_forgotten() -> None:
    members = [(header(f"{number}.cls"), b"") for number in range(5000)]
    file = io.BytesIO(gzip.decompress(archive_of(*members).read()))
    del members
    tracemalloc.start()
    try:
        assert sum(1 for _ in tar_members(file)) == 5000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_damaged_header_is_an_error_and_not_the_end() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(header("0.jpg"))
        archive.addfile(header("1.jpg"))
    raw = bytearray(file.getvalue())
    raw[512] ^= 0xFF
    with pytest.raises(tarfile.ReadError):
        list(tar_members(io.BytesIO(raw)))
