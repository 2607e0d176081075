import os
import pwd
import time
from pathlib import Path

import pytest

from app.engines.compiled_cache import CompiledCache, cpu_model
from app.engines.interface import EngineRefused


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "crossvit" / "compiled"


def test_what_is_written_is_there_at_the_next_start_of_the_same_and_of_no_other() -> None:
    CompiledCache({"graph": "a"}).write("model", b"code")
    CompiledCache({"graph": "a"}).write_json("seconds", {"1": 0.5})
    again, other = CompiledCache({"graph": "a"}), CompiledCache({"graph": "b"})
    found = again.read("model")
    assert found is not None
    assert found.content.tobytes() == b"code"
    found.release()
    assert found.content.tobytes() == b"code"
    assert again.read_json("seconds") == {"1": 0.5}
    assert other.read("model") is None
    assert other.read_json("seconds") is None


@pytest.mark.parametrize("damage", [b"", b"x", b"code" + 32 * b"\0"])
def test_a_damaged_file_counts_as_missing(home: Path, damage: bytes) -> None:
    cache = CompiledCache({})
    cache.write("model", b"code")
    (folder,) = home.iterdir()
    (folder / "model").write_bytes(damage)
    assert cache.read("model") is None
    cache.write("model", b"code")
    assert cache.read("model") is not None


def test_what_is_changed_in_memory_does_not_reach_the_file() -> None:
    cache = CompiledCache({})
    cache.write("model", b"code")
    found = cache.read("model")
    assert found is not None
    found.content[0] = 0
    again = cache.read("model")
    assert again is not None
    assert again.content.tobytes() == b"code"
    found.release()
    assert found.content.tobytes() == b"code"


def test_a_folder_that_is_removed_meanwhile_is_no_error(home: Path) -> None:
    cache = CompiledCache({})
    (folder,) = home.iterdir()
    folder.rmdir()
    cache.write("model", b"code")
    cache.drop("*", but="")
    assert cache.read("model") is None


def test_what_was_tried_in_vain_is_dropped(home: Path) -> None:
    cache = CompiledCache({})
    for name in ("a-int8-224-compiled-1", "a-f32-224-compiled-1", "a-f32-384-compiled-1", "choice"):
        cache.write(name, b"x")
    cache.drop("*-224-compiled-*", but="a-int8-224-")
    (folder,) = home.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["a-f32-384-compiled-1", "a-int8-224-compiled-1", "choice"]


def test_what_a_killed_process_left_goes_after_an_hour(home: Path) -> None:
    CompiledCache({}).write("model", b"x")
    (folder,) = home.iterdir()
    for name, age in ((".partial-old", 4000), (".partial-new", 10)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    CompiledCache({})
    assert sorted(file.name for file in folder.iterdir()) == [".partial-new", "model"]


def test_a_full_disk_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CompiledCache({})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.write("model", b"code")
    assert cache.read("model") is None
    assert [list(folder.iterdir()) for folder in home.iterdir()] == [[]]


def test_the_folders_used_last_stay(home: Path) -> None:
    for number in range(10):
        cache = CompiledCache({"number": number})
        cache.write_json("number", number)
        (newest,) = (folder for folder in home.iterdir() if not (folder / "seen").exists())
        (newest / "seen").touch()
        os.utime(newest, (number, number))
    assert len(list(home.iterdir())) == 8
    assert CompiledCache({"number": 9}).read_json("number") == 9
    assert CompiledCache({"number": 0}).read_json("number") is None


def test_nobody_else_may_write_there(home: Path) -> None:
    CompiledCache({})
    home.parent.chmod(0o777)
    with pytest.raises(EngineRefused, match="open to others"):
        CompiledCache({})
    home.parent.chmod(0o700)
    home.chmod(0o777)
    with pytest.raises(EngineRefused, match="open to others"):
        CompiledCache({})


def test_a_folder_that_others_may_only_read_is_closed_to_them(home: Path) -> None:
    home.mkdir(parents=True)
    home.parent.chmod(0o755)
    home.chmod(0o755)
    CompiledCache({})
    assert [folder.stat().st_mode & 0o777 for folder in (home.parent, home)] == [0o700, 0o700]


def test_a_cpu_is_told_by_what_does_not_change() -> None:
    assert cpu_model() == cpu_model()
    assert not {"cpu MHz", "processor", "bogomips"} & cpu_model().keys()


def test_a_user_without_a_home_or_an_entry_in_passwd_has_no_place_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", absent)
    with pytest.raises(
        EngineRefused, match=r"no folder for compiled models: could not determine the home.* Let XDG_CACHE_HOME be one"
    ):
        CompiledCache({"graph": "a"})


@pytest.mark.parametrize("named", ["", "  ", "relative"])
def test_without_an_absolute_folder_in_the_environment_it_is_in_the_users_home(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    CompiledCache({"graph": "a"})
    assert (tmp_path / "home" / ".cache" / "crossvit" / "compiled").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
