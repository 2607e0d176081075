import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.files import folders
from model.files.bad_files import BadFile
from model.files.folders import images_in, is_image_file, others_in, read_image_file
from model.files.formats import SUFFIXES


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.jfif", "a.Png", "a.webp", "a.avif", "a.ico", "b/c.d/a.b.gif"])
def test_an_image_is_told_by_its_suffix(name: str) -> None:
    assert is_image_file(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a.txt", "jpg", "a.jpg.part", "a.heic", ".jpg", "._a.jpg", ".thumbs/a.jpg"),
        *("__MACOSX/n/a.jpg", "n/@eaDir/a.jpg", "lost+found/a.jpg", "$RECYCLE.BIN/a.png"),
    ],
)
def test_hidden_files_and_files_of_operating_systems_are_no_images(name: str) -> None:
    assert not is_image_file(name)


def test_images_are_in_the_order_of_their_folders_and_names(tmp_path: Path) -> None:
    names = ["a/z.jpg", "a b/1.jpg", "a/b/c.PNG", "10.jpg", "9.jpg"]
    assert images_in(folder(tmp_path, *names)) == ["10.jpg", "9.jpg", "a/b/c.PNG", "a/z.jpg", "a b/1.jpg"]


def test_a_folder_that_is_hidden_itself_is_read(tmp_path: Path) -> None:
    assert images_in(folder(tmp_path / ".cache" / "lost+found", "a.jpg")) == ["a.jpg"]


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert images_in(folder(tmp_path, name)) == [name]
    assert read_image_file(tmp_path / name) == b"x"


def test_pipes_and_devices_are_neither_found_nor_opened(tmp_path: Path) -> None:
    folder(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s.jpg"))
        assert images_in(tmp_path) == ["a.jpg"]
        for name, what in [("pipe", "pipe"), ("zero", "device"), ("folder", "folder"), ("s", "socket")]:
            with pytest.raises(BadFile, match=f"it is a {what}, not a file"):
                read_image_file(tmp_path / f"{name}.jpg")
    with pytest.raises(FileNotFoundError):
        read_image_file(tmp_path / "gone.jpg")


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    monkeypatch.setattr(folders, "check_regular", lambda _: None)  # it was a file then
    with pytest.raises(BadFile, match="it is a pipe"):
        read_image_file(tmp_path / "a.jpg")


def test_links_are_followed_but_for_those_back(tmp_path: Path) -> None:
    folder(tmp_path / "data", "n1/a.jpg")
    folder(tmp_path / "other", "b.jpg")
    (tmp_path / "data" / "n2").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "n1" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "c.jpg").symlink_to(tmp_path / "other" / "b.jpg")
    assert images_in(tmp_path / "data") == ["c.jpg", "n1/a.jpg", "n2/b.jpg"]


def test_a_closed_folder_is_an_error_unless_it_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, "a.jpg", "lost+found/b.jpg", "private/c.jpg")
    scan = os.scandir

    def refusing(path: str) -> Iterator[os.DirEntry[str]]:  # whoever runs this may read everything
        if path.endswith(("lost+found", "private")):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        with pytest.raises(PermissionError, match="private"):
            images_in(tmp_path)
        (tmp_path / "private" / "c.jpg").unlink()
        (tmp_path / "private").rmdir()
        assert images_in(tmp_path) == ["a.jpg"]


def test_a_file_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_IMAGE_FILE_BYTES", 1000)
    for length in (0, 1000):
        (tmp_path / "a.jpg").write_bytes(bytes(length))
        assert len(read_image_file(tmp_path / "a.jpg")) == length
    (tmp_path / "a.jpg").write_bytes(bytes(1001))
    with pytest.raises(BadFile, match="it has more than 1,000 bytes"):
        read_image_file(tmp_path / "a.jpg")


def test_images_of_other_formats_are_counted_for_whoever_finds_none(tmp_path: Path) -> None:
    folder(tmp_path, "a.HEIC", "n/b.heic", "c.tif", "d.txt")
    assert others_in([tmp_path]) == ": 2 of .heic, 1 of .tif cannot be read, convert them to JPEG or PNG"
    assert others_in([tmp_path / "a.HEIC"]) == ""
    assert not set(SUFFIXES) & {".heic", ".tif"}
