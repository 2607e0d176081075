import errno
import multiprocessing
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from model.dataset import BadDataset, Dataset

BODIES = {
    "n01/b.JPEG": b"the second",
    "n01/a.jpg": b"the first",
    "n02/c.png": b"the third " * 1000,
}
ORDER = ["n01/a.jpg", "n01/b.JPEG", "n02/c.png"]


def folder(path: Path, bodies: Mapping[str, bytes] = BODIES) -> Path:
    for name, body in bodies.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(body)
    return path


def zipped(path: Path, bodies: Mapping[str, bytes] = BODIES, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, body in bodies.items():
            archive.writestr(name, body)
    return path


def tarred(path: Path, files: Mapping[str, bytes], mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, BytesIO(body))
    return path


def seen(data: Dataset) -> list[tuple[str, str, bytes]]:
    return [(item.name, item.category, data.read(index)) for index, item in enumerate(data.items)]


EXPECTED = [(name, name.partition("/")[0], BODIES[name]) for name in ORDER]


def test_a_folder_of_folders_in_the_order_of_names(tmp_path: Path) -> None:
    folder(tmp_path, BODIES | {"n01/notes.txt": b"", "top.jpg": b"", "n01/.hidden.jpg": b"", "n01/.thumbs/a.jpg": b""})
    data = Dataset([tmp_path])
    assert seen(data) == EXPECTED
    assert (len(data), data.categories) == (3, ["n01", "n02"])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file(tmp_path: Path, method: int) -> None:
    bodies = {"n03/": b"", "folder.jpg/": b"", "__MACOSX/n01/._a.jpg": b""} | BODIES
    assert seen(Dataset([zipped(tmp_path / "x.zip", bodies, method)])) == EXPECTED


def test_a_zip_file_whose_names_are_not_plain(tmp_path: Path) -> None:
    data = Dataset([zipped(tmp_path / "x.zip", {f"./val//{name}": body for name, body in BODIES.items()})])
    assert [(category, body) for _, category, body in seen(data)] == [parts[1:] for parts in EXPECTED]


@pytest.mark.parametrize("make", [folder, zipped])
def test_the_class_is_the_outermost_folder(tmp_path: Path, make: Callable[..., Path]) -> None:
    bodies = {"cat/indoor/1.jpg": b"", "cat/outdoor/2.jpg": b"", "dog/indoor/3.jpg": b"", "dog/4.jpg": b""}
    data = Dataset([make(tmp_path / "data", bodies)])
    assert [item.category for item in data.items] == ["cat", "cat", "dog", "dog"]


def test_a_zip_file_of_one_class_has_that_one(tmp_path: Path) -> None:
    assert Dataset([zipped(tmp_path / "x.zip", {"n01/images/1.jpg": b"", "n01/images/2.jpg": b""})]).categories == [
        "n01"
    ]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    for name in ("n01", "n02"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert seen(Dataset([tmp_path / "data"])) == EXPECTED


def test_a_link_to_a_parent_folder_is_not_followed(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    (data / "n01" / "all").symlink_to(data)
    (data / "n01" / "other").symlink_to(data / "n02")
    (data / "n02" / "one").symlink_to(data / "n01")
    (data / "n02" / "gone").symlink_to(tmp_path / "nowhere")
    linked = ["n01/other/c.png", "n02/one/a.jpg", "n02/one/b.JPEG"]
    assert sorted(item.name for item in Dataset([data]).items) == sorted(ORDER + linked)


def test_classes_that_are_indices_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    assert Dataset([folder(tmp_path, {f"{index}/a.jpg": b"" for index in range(12)})]).categories[-2:] == ["10", "11"]


def test_a_tar_file_of_webdataset(tmp_path: Path) -> None:
    files = {
        "./s/01.cls": b"7\n",
        "./s/01.jpg": b"one",
        "./s/00.jpg": b"zero",
        "./s/00.json": b"{}",
        "./s/00.cls": b"3",
    }
    data = Dataset([tarred(tmp_path / "x.tar", files)])
    assert seen(data) == [("./s/00.jpg", "3", b"zero"), ("./s/01.jpg", "7", b"one")]


def test_keys_of_a_tar_file_may_come_again(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for category in (b"cat", b"dog"):
            for name, body in (("0.jpg", category * 2), ("0.cls", category), ("._0.jpg", b"of macOS")):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, BytesIO(body))
    assert seen(Dataset([tmp_path / "x.tar"])) == [("0.jpg", "cat", b"catcat"), ("0.jpg", "dog", b"dogdog")]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, scan = folder(tmp_path / "data"), os.scandir

    def refusing(path: str) -> Iterator[os.DirEntry[str]]:  # whoever runs this may read everything
        if path.endswith("n02"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        with pytest.raises(BadDataset, match=r"cannot read .*data: .*Permission denied: '.*n02'"):
            Dataset([data])


def test_the_order_is_that_of_names_however_they_are_spread(tmp_path: Path) -> None:
    parts = [zipped(tmp_path / f"{name[4]}.zip", {name: BODIES[name]}) for name in ORDER]
    for paths in (parts, parts[::-1], [parts[1], folder(tmp_path / "f", dict([*BODIES.items()][1:]))]):
        assert seen(Dataset(paths)) == EXPECTED


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    bodies = {f"n01/{number}.png": bytes([number]) * 50_000 for number in range(40)}
    data = Dataset([zipped(tmp_path / "x.zip", bodies, zipfile.ZIP_DEFLATED)])
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(data.read, range(len(data))))
    assert read == [bodies[item.name] for item in data.items]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_a_zip_file_that_is_open_here(tmp_path: Path, start: str) -> None:
    data = Dataset([zipped(tmp_path / "x.zip")])
    assert data.read(0) == BODIES[ORDER[0]]  # which opens it
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.map(data.read, [2, 1]) == [BODIES[ORDER[2]], BODIES[ORDER[1]]]
    assert seen(pickle.loads(pickle.dumps(data))) == EXPECTED  # noqa: S301


def test_indices_are_places_in_a_list_of_classes(tmp_path: Path) -> None:
    data = Dataset([folder(tmp_path)])
    assert data.indices(["n02", "n00", "n01"]) == [2, 2, 0]
    with pytest.raises(BadDataset, match=r"1 classes are unknown, such as 'n02'; known are 'n01'"):
        data.indices(["n01"])


def test_files_without_labelled_images_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no archive")
    (tmp_path / "a.jpg").write_bytes(b"an image without a class")
    pair = {"d/1.jpg": b"x", "d/1.cls": b"0"}
    for path, message in [
        (tmp_path, r"no images \(.jpg, .*\) in folders named for their class in /"),
        (tmp_path / "nowhere", "there is no /.*/nowhere"),
        (tmp_path / "notes.txt", "notes.txt is not a folder, zip file or tar file"),
        (tarred(tmp_path / "x.tar", {"d/1.jpg": b"x"}), "x.tar: d/1.jpg has no class: d/1.cls is missing"),
        (tarred(tmp_path / "y.tar", {"1.jpg": b"x", "1.cls": b" "}), "1.jpg has no class: 1.cls is missing or empty"),
        (tarred(tmp_path / "x.tar.gz", pair, "w:gz"), "x.tar.gz: .*; a tar file must be whole and not compressed"),
    ]:
        with pytest.raises(BadDataset, match=message):
            Dataset([path])


def test_a_zip_file_of_windows_or_with_absolute_names(tmp_path: Path) -> None:
    for around in ("val\\", "C:\\data\\", ""):
        bodies = {f"{around}{name}".replace("/", "\\"): body for name, body in BODIES.items()}
        data = Dataset([zipped(tmp_path / "x.zip", bodies)])
        assert [(category, body) for _, category, body in seen(data)] == [parts[1:] for parts in EXPECTED]
    for around in ("/", "../", "/data/../"):
        data = Dataset([zipped(tmp_path / "x.zip", {f"{around}{name}": body for name, body in BODIES.items()})])
        assert [(category, body) for _, category, body in seen(data)] == [parts[1:] for parts in EXPECTED]


def test_archives_that_cannot_be_read_are_named_with_what_would_do(tmp_path: Path) -> None:
    locked = bytearray(zipped(tmp_path / "a.zip").read_bytes())
    place = locked.index(b"PK\1\2")
    locked[place + 8] |= 1
    other = bytearray(zipped(tmp_path / "b.zip").read_bytes())
    other[other.index(b"PK\1\2") + 10] = 9  # Deflate64
    for name, body, message in [
        ("locked.zip", locked, "n01/b.JPEG has a password; unpack it first"),
        ("other.zip", other, "n01/b.JPEG is compressed by method 9; pack it anew by deflate, bzip2 or LZMA"),
        ("x.tar.zst", bytearray(b"\x28\xb5\x2f\xfd" + bytes(100)), "it is compressed; .* `zstd -d` first"),
        ("x.tar.gz", bytearray(b"\x1f\x8b" + bytes(100)), "it is compressed; .* `gzip -d` first"),
    ]:
        (tmp_path / name).write_bytes(body)
        with pytest.raises(BadDataset, match=f"cannot read .*{name}: {message}"):
            Dataset([tmp_path / name])


def test_links_in_archives_are_no_images(tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped(tmp_path / "x.zip"), "a") as archive:
        link = zipfile.ZipInfo("n01/link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.jpg")
    assert seen(Dataset([tmp_path / "x.zip"])) == EXPECTED


def test_a_tar_file_may_have_long_names_and_no_sparse_images(tmp_path: Path) -> None:
    name = f"{'folder/' * 20}{'é' * 80}"
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=form) as archive:
            for extension, body in (("jpg", b"image"), ("cls", b"3")):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(body)
                archive.addfile(member, BytesIO(body))
        assert seen(Dataset([tmp_path / f"{number}.tar"])) == [(f"{name}.jpg", "3", b"image")]
    header = tarfile.TarInfo("1.jpg")
    header.type = tarfile.GNUTYPE_SPARSE
    label = tarfile.TarInfo("1.cls")
    label.size = 1
    sparse = header.tobuf(tarfile.GNU_FORMAT) + label.tobuf() + b"0".ljust(512, b"\0") + bytes(1024)
    (tmp_path / "sparse.tar").write_bytes(sparse)
    with pytest.raises(BadDataset, match=r"cannot read 1.jpg in .*sparse.tar: it is sparse; pack it without --sparse"):
        Dataset([tmp_path / "sparse.tar"])


def test_a_tar_file_that_was_cut_off_later_is_an_error_of_its_images(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", {"1.jpg": b"x" * 5000, "1.cls": b"0"})
    data = Dataset([path])
    os.truncate(path, 3000)
    with pytest.raises(BadDataset, match=r"cannot read 1.jpg in .*x.tar: the file ends before it does"):
        data.read(0)


def test_an_image_of_gigabytes_is_refused_without_its_memory(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("n01/a.jpg", "w") as file,
    ):
        for _ in range(110):
            file.write(bytes(1_000_000))
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(3_000_000_000)
    (tmp_path / "f" / "n01").mkdir(parents=True)
    (tmp_path / "big.jpg").rename(tmp_path / "f" / "n01" / "a.jpg")
    tracemalloc.start()
    try:
        for path in (tmp_path / "x.zip", tmp_path / "f"):
            with pytest.raises(BadDataset, match=r"cannot read n01/a.jpg in .*: it has more than 100,000,000 bytes"):
                Dataset([path]).read(0)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_pipe_or_a_device_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(BadDataset, match=f"cannot read {path}: it is a {what}, not a file"):
            Dataset([path])


def test_images_of_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"in /.*: 2 of .heic cannot be read, convert them"):
        Dataset([folder(tmp_path, {"n01/a.HEIC": b"", "n02/b.heic": b""})])


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    data = Dataset(
        [folder(tmp_path / "f"), zipped(tmp_path / "x.zip", {"n00/z.jpg": b"z" * 5000}, zipfile.ZIP_DEFLATED)]
    )
    (tmp_path / "f" / ORDER[0]).unlink()
    damaged = bytearray((tmp_path / "x.zip").read_bytes())
    damaged[40:50] = b"\xff" * 10
    (tmp_path / "x.zip").write_bytes(damaged)
    for index, name in enumerate(["n00/z.jpg in /.*x.zip", "n01/a.jpg in /"]):
        with pytest.raises(BadDataset, match=f"cannot read {name}"):
            data.read(index)
