import os
import pwd
from pathlib import Path

import pytest

from app.engines.compiled_cache import CompiledCache
from export.plans.build_spec import Device, Unable
from export.plans.timing_cache import default_file, read_timings, write_timings

DEVICE = Device("10.16.1.11", "NVIDIA L4", "8.9", "580.95.05", "13.0", 24 << 30)


def test_there_is_one_timing_cache_for_each_gpu_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_file(DEVICE) == tmp_path / "crossvit" / "timings-nvidia-l4-trt10.16.1.11"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_file(DEVICE).parent == tmp_path / ".cache" / "crossvit"


def test_a_build_leaves_a_cache_that_engines_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = os.umask(0o022)
    try:
        write_timings(default_file(DEVICE), b"timings")
    finally:
        os.umask(before)
    CompiledCache({"graph": "a"}).write("model", b"code")
    assert read_timings(default_file(DEVICE)) == b"timings"


def test_without_a_home_folder_the_error_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", absent)
    with pytest.raises(Unable, match="Give it with --timing-cache FILE"):
        default_file(DEVICE)


def test_the_timing_cache_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a" / "timings"
    assert read_timings(file) == b""
    write_timings(file, b"first")
    write_timings(file, b"second")
    assert read_timings(file) == b"second"

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_timings(file, b"third")
    assert read_timings(file) == b"second"
    assert list(file.parent.iterdir()) == [file]
