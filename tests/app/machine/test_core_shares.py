"""The machine's CPUs and memory divided between instances."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.machine import core_shares
from app.machine.core_shares import divide_cpus, equal_share
from app.machine.cpus import usable_cpus
from app.machine.machine_share import MachineShare
from app.machine.memory import usable_memory


def machine(root: Path, nodes: dict[int, str], siblings: dict[int, str]) -> Path:
    for node, cpus in nodes.items():
        folder = root / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
    for cpu, list_of_siblings in siblings.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{list_of_siblings}\n")
    return root


def test_numa_nodes_and_physical_cores_stay_whole(tmp_path: Path) -> None:
    siblings = {cpu: f"{cpu % 8},{cpu % 8 + 8}" for cpu in range(16)}
    root = machine(tmp_path, {0: "0-3,8-11", 1: "4-7,12-15"}, siblings)
    cpus = set(range(16))
    assert divide_cpus(cpus, 2, root) == [{0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}]
    assert divide_cpus(cpus, 4, root) == [{0, 1, 8, 9}, {2, 3, 10, 11}, {4, 5, 12, 13}, {6, 7, 14, 15}]


def test_every_cpu_is_in_one_share_and_shares_differ_by_one_cpu_at_most(tmp_path: Path) -> None:
    shares = divide_cpus({1, 2, 3, 5, 8, 9, 10}, 3, tmp_path)
    assert sorted(cpu for share in shares for cpu in share) == [1, 2, 3, 5, 8, 9, 10]
    assert sorted(map(len, shares)) == [2, 2, 3]


def test_instances_share_all_cpus_where_there_are_fewer_and_under_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    assert core_shares.core_shares(len(os.sched_getaffinity(0)) + 1) is None
    monkeypatch.setattr(core_shares, "cpu_quota", lambda: 0.5)
    assert core_shares.core_shares(1) is None


def test_a_quota_and_memory_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_shares, "allowed_cpus", lambda: 64)
    monkeypatch.setattr(core_shares, "usable_memory", lambda: 10_000)
    monkeypatch.setattr(core_shares, "cpu_quota", lambda: None)
    assert equal_share(4) == MachineShare(16, 2500)
    monkeypatch.setattr(core_shares, "cpu_quota", lambda: 6.0)
    assert equal_share(4) == MachineShare(1.5, 2500)


def test_a_process_with_a_share_and_those_that_it_starts_know_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MachineShare(0.75, 123).environment().items():
        monkeypatch.setenv(name, value)
    assert (usable_cpus(), usable_memory()) == (1, 123)
    code = (
        "from app.machine.cpus import usable_cpus; from app.machine.memory import usable_memory;"
        "print(usable_cpus(), usable_memory())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1 123\n"
