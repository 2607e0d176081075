"""What units give: every image of an archive is there, and no more than needed is in memory."""

import asyncio
import io
import tarfile
from contextlib import aclosing
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from app.bulk.bulk_options import BulkOptions
from app.bulk.byte_budget import ByteBudget
from app.bulk.source_listing import SourceEntry
from app.bulk.unit_images import SourceImage, UnitReader

LIMIT = 10_000_000


def images_of(folder: Path, entry: SourceEntry, **options: object) -> tuple[list[SourceImage], int]:
    """The images of `entry`, and the most bytes that Arrow held at any of them."""

    async def read() -> tuple[list[SourceImage], int]:
        budget = ByteBudget(100_000_000)
        reader = UnitReader(BulkOptions.model_validate(options), str(folder), LIMIT, budget)
        found, most, before = [], 0, pa.total_allocated_bytes()
        async with aclosing(reader.images([entry])) as images:
            async for image in images:
                budget.give_back(image.held)
                found.append(image)
                most = max(most, pa.total_allocated_bytes() - before)
        return found, most

    return asyncio.run(read())


def test_large_values_of_a_parquet_file_are_read_one_by_one(tmp_path: Path) -> None:
    table = pa.table({"bytes": [bytes(4_000_000)] * 16})
    parquet.write_table(table, tmp_path / "a.parquet", use_dictionary=False, data_page_size=1, write_batch_size=1)
    del table
    found, most = images_of(tmp_path, SourceEntry("parquet", "a.parquet", 0, 16), bytes_column="bytes")
    assert [len(image.body or b"") for image in found] == [4_000_000] * 16
    assert most < 30_000_000


def test_bytes_in_a_dictionary_are_read(tmp_path: Path) -> None:
    column = pa.array([b"a", b"b", b"a", None]).dictionary_encode()
    parquet.write_table(pa.table({"bytes": column}), tmp_path / "a.parquet")
    found, _ = images_of(tmp_path, SourceEntry("parquet", "a.parquet", 0, 4), bytes_column="bytes")
    assert [image.body for image in found] == [b"a", b"b", b"a", None]


def test_links_in_a_tar_file_are_problems_and_do_not_vanish(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("0.jpg")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
        for name, kind in (("1.jpg", tarfile.LNKTYPE), ("2.jpg", tarfile.SYMTYPE), ("3.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.jpg"
            archive.addfile(info)
    found, _ = images_of(tmp_path, SourceEntry("tar", "a.tar", end=0))
    assert [(image.id, str(image.problem)) for image in found] == [
        ("a.tar#0.jpg", "None"),
        ("a.tar#1.jpg", "it is a hard link to 0.jpg in the tar file, which is not followed"),
        ("a.tar#2.jpg", "it is a symbolic link to 0.jpg in the tar file, which is not followed"),
        ("a.tar#3.jpg", "it is no regular file in the tar file, which is not followed"),
    ]
