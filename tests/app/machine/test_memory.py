import logging
from pathlib import Path

import pytest

from app.configuration.settings import Settings
from app.machine.memory import affordable_decoders, memory_limit, needed_bytes, usable_memory
from app.serving.assembly import make_decoders
from tests.support.folders import control_group

GB = 10**9


def test_a_limit_of_version_2_is_read_and_a_parents_binds_too(tmp_path: Path) -> None:
    root = control_group(
        tmp_path,
        proc__self__cgroup="0::/pods/one\n",
        sys__fs__cgroup__pods__one__memory___max="max\n",
        sys__fs__cgroup__pods__one__memory___high="3000\n",
        sys__fs__cgroup__pods__memory___max="4000\n",
    )
    assert memory_limit(root) == 3000
    (root / "sys/fs/cgroup/pods/one/memory.high").write_text("max\n")
    assert memory_limit(root) == 4000


def test_in_a_container_the_limit_is_at_the_root_of_the_mount(tmp_path: Path) -> None:
    root = control_group(tmp_path, proc__self__cgroup="0::/../outer\n", sys__fs__cgroup__memory___max="5000\n")
    assert memory_limit(root) == 5000


@pytest.mark.parametrize("path", ["/docker/abc", "/"])
def test_a_limit_of_version_1_is_read(tmp_path: Path, path: str) -> None:
    root = control_group(
        tmp_path,
        proc__self__cgroup=f"5:memory:{path}\n4:cpu,cpuacct:{path}\n0::/\n",
        sys__fs__cgroup__memory__memory___limit_in_bytes="6000\n",
    )
    assert memory_limit(root) == 6000


@pytest.mark.parametrize(("limit", "expected"), [("max", 8 << 20), ("9223372036854771712", 8 << 20), ("4096", 4096)])
def test_the_machines_memory_is_the_most(tmp_path: Path, limit: str, expected: int) -> None:
    root = control_group(
        tmp_path,
        proc__self__cgroup="0::/\n",
        proc__meminfo="MemTotal:           8192 kB\nMemFree:            1 kB\n",
        sys__fs__cgroup__memory___max=f"{limit}\n",
    )
    assert usable_memory(root) == expected


@pytest.mark.parametrize("text", ["", "nonsense\n", "-1\n", "MemTotal: many kB\n"])
def test_invalid_memory_files_give_no_limit(tmp_path: Path, text: str) -> None:
    root = control_group(tmp_path, proc__self__cgroup="0::/\n", proc__meminfo=text, sys__fs__cgroup__memory___max=text)
    assert usable_memory(root) is None
    assert affordable_decoders(None, 50_000_000, 1 << 30) is None


@pytest.mark.parametrize(
    ("memory", "max_pixels", "expected"),
    [(GB // 10, 50_000_000, 1), (GB, 50_000_000, 1), (4 * GB, 50_000_000, 4), (4 * GB, 1_000_000, 29)],
)
def test_decoders_have_half_of_the_memory(memory: int, max_pixels: int, expected: int) -> None:
    assert affordable_decoders(memory, max_pixels, 1 << 30) == expected


def host(monkeypatch: pytest.MonkeyPatch, cpus: int, memory: int | None) -> None:
    for module in ("app.configuration.settings", "app.serving.assembly"):
        monkeypatch.setattr(f"{module}.usable_cpus", lambda: cpus)
        monkeypatch.setattr(f"{module}.usable_memory", lambda: memory)


@pytest.mark.parametrize(("cpus", "memory", "expected"), [(64, 4 * GB, 4), (2, 4 * GB, 2), (64, None, 64)])
def test_a_large_host_with_a_small_limit_has_as_many_decoders_as_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cpus: int, memory: int | None, expected: int
) -> None:
    caplog.set_level(logging.INFO)
    host(monkeypatch, cpus, memory)
    assert make_decoders(Settings()).count == expected
    assert ("4 decoders for 64 usable CPUs" in caplog.text) == (expected == 4)


def test_a_number_of_decoders_that_was_set_is_kept_and_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host(monkeypatch, 64, 4 * GB)
    assert make_decoders(Settings(decoders=64)).count == 64
    assert "64 decoders were requested" in caplog.text
    assert "26,240 MB, of 4,000 MB that there are. 4 would fit" in caplog.text
    caplog.clear()
    make_decoders(Settings(decoders=4))
    assert caplog.text == ""


def test_what_is_needed_grows_with_the_model_and_the_decoders() -> None:
    assert needed_bytes(40_000_000, 1) < needed_bytes(180_000_000, 1) < needed_bytes(180_000_000, 8)
    assert needed_bytes(36_000_000, 2) < 600_000_000  # crossvit_9_dagger: what it takes is in docs/performance.md
