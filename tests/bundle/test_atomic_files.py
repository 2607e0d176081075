from pathlib import Path

import pytest

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
