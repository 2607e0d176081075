import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundle import atomic_files
from bundle.atomic_files import exclusive_lock, replace_file, replacing_folder


def test_a_file_is_replaced_in_one_step_and_is_its_owners(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", b"first")
    replace_file(tmp_path / "a", b"sec", b"ond", prefix=".partial-")
    assert (tmp_path / "a").read_bytes() == b"second"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    replace_file(tmp_path / "a", b"first")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        replace_file(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with replacing_folder(tmp_path / "a") as folder:
            (folder / name).touch()
            assert folder.parent == tmp_path
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "new"]


def test_only_one_holds_the_lock_of_a_folder(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path), pytest.raises(BlockingIOError), exclusive_lock(tmp_path):
        pass
    with exclusive_lock(tmp_path):
        pass


@pytest.mark.parametrize("moment", ["before it is locked", "when it is locked"])
@pytest.mark.parametrize("leftover", [False, True])
def test_a_folder_that_another_run_removes_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, leftover: bool
) -> None:
    """The other run is a stand-in: with a real one the moment cannot be met on purpose."""
    removed: list[Path] = []

    @contextmanager
    def with_another_run(folder: Path, *, wait: bool = False) -> Iterator[None]:
        takes = not removed
        if takes:
            removed.append(folder)
        if takes and moment == "before it is locked":
            shutil.rmtree(folder)
        with exclusive_lock(folder, wait=wait):
            if takes and moment == "when it is locked":
                shutil.rmtree(folder)
            yield

    if leftover:
        (tmp_path / ".place.partial-left").mkdir()
    monkeypatch.setattr(atomic_files, "exclusive_lock", with_another_run)
    with replacing_folder(tmp_path / "place") as folder:
        (folder / "file").write_text("whole")
    assert len(removed) == 1
    assert (tmp_path / "place" / "file").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
