import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.machine.cpus import allowed_cpus, cpu_quota, has_dot_products, usable_cpus
from tests.support.folders import control_group


def test_a_quota_of_version_2_is_read_where_the_process_says_it_is(tmp_path: Path) -> None:
    root = control_group(
        tmp_path,
        proc__self__cgroup="0::/pods/one\n",
        sys__fs__cgroup__pods__one__cpu___max="150000 100000\n",
    )
    assert cpu_quota(root) == 1.5


def test_a_parents_quota_binds_too(tmp_path: Path) -> None:
    root = control_group(
        tmp_path,
        proc__self__cgroup="0::/pods/one\n",
        sys__fs__cgroup__pods__one__cpu___max="max 100000\n",
        sys__fs__cgroup__pods__cpu___max="400000 100000\n",
    )
    assert cpu_quota(root) == 4


def test_in_a_container_the_group_is_the_root_of_the_mount(tmp_path: Path) -> None:
    root = control_group(tmp_path, proc__self__cgroup="0::/../outer\n", sys__fs__cgroup__cpu___max="50000 100000\n")
    assert cpu_quota(root) == 0.5


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1_is_read(tmp_path: Path, mount: str) -> None:
    root = control_group(
        tmp_path,
        proc__self__cgroup="5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
        **{
            f"sys__fs__cgroup__{mount}__cpu___cfs_quota_us": "200000\n",
            f"sys__fs__cgroup__{mount}__cpu___cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(root) == 2


@pytest.mark.parametrize("text", ["max 100000\n", "", "nonsense\n"])
def test_without_a_quota_there_is_none(tmp_path: Path, text: str) -> None:
    root = control_group(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__cpu___max=text)
    assert cpu_quota(root) is None
    assert cpu_quota(tmp_path / "nowhere") is None


def test_unlimited_of_version_1_is_no_quota(tmp_path: Path) -> None:
    root = control_group(
        tmp_path,
        proc__self__cgroup="4:cpu:/\n",
        sys__fs__cgroup__cpu__cpu___cfs_quota_us="-1\n",
        sys__fs__cgroup__cpu__cpu___cfs_period_us="100000\n",
    )
    assert cpu_quota(root) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.2, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_a_quota_counts_up_to_what_is_there(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr("app.machine.cpus.allowed_cpus", lambda: 8)
    monkeypatch.setattr("app.machine.cpus.cpu_quota", lambda: quota)
    assert usable_cpus() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_bound_to_one_cpu_uses_one() -> None:
    code = (
        "import os; from app.machine.cpus import usable_cpus; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(usable_cpus())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
    assert allowed_cpus() >= 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("flags : fpu avx512f avx512_vnni", True), ("Features : fp asimd asimddp", True), ("flags : fpu avx2", False)],
)
def test_instructions_for_8_bits_are_found(flags: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert has_dot_products(tmp_path / "cpuinfo") is expected
    assert has_dot_products(tmp_path / "missing") is False
