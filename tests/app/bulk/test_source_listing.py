"""What sources hold, in which units, and that a listing keeps it."""

import io
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from app.bulk.bulk_options import BulkOptions
from app.bulk.source_listing import SourceEntry, UnitListing, in_units, list_sources, write_listing
from app.errors import BadParameter


def listed(folder: Path, *sources: str, **options: object) -> list[SourceEntry]:
    return list(list_sources(sources, BulkOptions.model_validate(options), str(folder)))


def test_a_folder_is_listed_in_order_without_what_is_hidden_or_no_image(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.JPEG", "a.png", ".hidden/3.jpg", "notes.txt", "shard.tar", "table.parquet"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    assert listed(tmp_path, "photos") == [
        SourceEntry("image", "photos/a.png"),
        SourceEntry("image", "photos/b/1.JPEG"),
        SourceEntry("image", "photos/b/2.jpg"),
        SourceEntry("tar", "photos/shard.tar", end=0),
    ]


def test_images_share_units_and_a_tar_file_has_its_own() -> None:
    images = [SourceEntry("image", f"{number}.jpg") for number in range(5)]
    tar, rows = SourceEntry("tar", "a.tar", end=0), SourceEntry("parquet", "a.parquet", 0, 2)
    assert list(in_units([*images, tar, rows, images[0]], 3)) == [images[:3], images[3:], [tar], [rows, images[0]]]


def test_rows_with_bytes_are_cut_at_row_groups_and_those_with_paths_anywhere(tmp_path: Path) -> None:
    table = pa.table({"bytes": [b"x"] * 10, "path": ["a.jpg"] * 10})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    cuts = [(each.first, each.end) for each in listed(tmp_path, "a.parquet", bytes_column="bytes", part_size=4)]
    assert cuts == [(0, 6), (6, 10)]
    cuts = [(each.first, each.end) for each in listed(tmp_path, "a.parquet", path_column="path", part_size=4)]
    assert cuts == [(0, 4), (4, 8), (8, 10)]


def test_a_listing_keeps_units_and_names_that_are_not_utf_8() -> None:
    units = [
        [SourceEntry("image", os.fsdecode(b"caf\xe9.jpg")), SourceEntry("image", "s3://bucket/é.jpg")],
        [SourceEntry("parquet", "a.parquet", 5, 9)],
    ]
    file = io.BytesIO()
    write_listing(units, file)
    listing = UnitListing(pa.BufferReader(file.getvalue()))
    assert [listing.unit(number) for number in range(len(listing))] == units
    assert listing.images == 6


def test_the_number_of_images_is_not_known_with_a_tar_file() -> None:
    file = io.BytesIO()
    write_listing([[SourceEntry("tar", "a.tar", end=0)], [SourceEntry("image", "a.jpg")]], file)
    assert UnitListing(pa.BufferReader(file.getvalue())).images is None


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.gz", "A.TAR"])
def test_tar_files_are_known_by_their_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert listed(tmp_path, name) == [SourceEntry("tar", name, end=0)]


def test_a_range_in_braces_stands_for_its_numbers(tmp_path: Path) -> None:
    for number in range(8, 12):
        (tmp_path / f"shard-{number:04}.tar").write_bytes(b"")
    found = listed(tmp_path, "shard-{0008..0011}.tar")
    assert [each.address for each in found] == [f"shard-{number:04}.tar" for number in range(8, 12)]
    with pytest.raises(BadParameter, match=r"there is no shard-0012\.tar"):
        listed(tmp_path, "shard-{0008..0012}.tar")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["a", "./a/"], "./a/ is given twice"),
        (["a/1.jpg", "a"], "a/1.jpg lies in a, which is given too"),
        (["s3://b/a", "s3://b/a/c.tar"], "s3://b/a/c.tar lies in s3://b/a, which is given too"),
        (["no.tar"], r"there is no no\.tar"),
        (["no.jpg"], r"there is no no\.jpg"),
    ],
)
def test_sources_that_overlap_or_are_not_there_are_refused(tmp_path: Path, sources: list[str], message: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "1.jpg").write_bytes(b"x")
    assert len(listed(tmp_path, "a", "ab")) == 2
    with pytest.raises(BadParameter, match=message):
        listed(tmp_path, *sources)


def test_a_list_may_have_comments_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n# later\n\nb.jpg\n./#c.jpg\n")
    assert [each.address for each in listed(tmp_path, "a.txt")] == ["a.jpg", "b.jpg", "./#c.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bytes_column": "text"}, "--bytes-column text has string; it has to have bytes"),
        ({"bytes_column": "list"}, r"--bytes-column list has list<.*>; it has to have bytes"),
        ({"bytes_column": "number"}, "--bytes-column number has int64; it has to have bytes"),
        ({"path_column": "bytes"}, "--path-column bytes has binary; it has to have text"),
        ({"path_column": "text", "id_column": "list"}, "--id-column list has .*; it has to have text or whole numbers"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    table = pa.table({"text": ["a"], "bytes": [b"a"], "number": [1], "list": [[b"a"]]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadParameter, match=message):
        listed(tmp_path, "a.parquet", **options)
