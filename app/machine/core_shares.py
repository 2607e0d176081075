"""Divides the CPUs and the memory of the machine between instances."""

import os
import re
from itertools import pairwise
from pathlib import Path

from app.machine.cgroups import ROOT, cgroup_text
from app.machine.cpus import allowed_cpus, cpu_quota
from app.machine.machine_share import MachineShare
from app.machine.memory import usable_memory


def equal_share(parts: int) -> MachineShare:
    """What each of `parts` instances may use."""
    quota, memory = cpu_quota(), usable_memory()
    cpus = allowed_cpus() if quota is None else min(allowed_cpus(), quota)
    return MachineShare(cpus / parts, None if memory is None else memory // parts)


def core_shares(parts: int) -> list[set[int]] | None:
    """The CPUs of each of `parts` instances; None if they share all of them.

    They share where there are fewer CPUs than instances, and under a quota: every container would be pinned to the
    same cores.
    """
    quota = cpu_quota()
    if parts > allowed_cpus() or not hasattr(os, "sched_getaffinity") or (quota and quota < allowed_cpus()):
        return None
    return divide_cpus(os.sched_getaffinity(0), parts)


def divide_cpus(cpus: set[int], parts: int, root: Path = ROOT) -> list[set[int]]:
    """`cpus` in equal parts, neighbours together: NUMA nodes stay whole where they can, and so do physical cores.

    Source: the kernel's documentation of /sys/devices/system/node and /sys/devices/system/cpu/cpu*/topology.
    """
    nodes = _numa_nodes(root)
    ordered = sorted(cpus, key=lambda cpu: (nodes.get(cpu, 0), min(_siblings(cpu, root)), cpu))
    bounds = [part * len(ordered) // parts for part in range(parts + 1)]
    return [set(ordered[start:end]) for start, end in pairwise(bounds)]


def _numa_nodes(root: Path) -> dict[int, int]:
    """The node of each CPU."""
    folders = (root / "sys/devices/system/node").glob("node[0-9]*")
    return {
        cpu: int(folder.name.removeprefix("node"))
        for folder in folders
        for cpu in _cpu_list(cgroup_text(folder / "cpulist"))
    }


def _siblings(cpu: int, root: Path) -> set[int]:
    """The CPUs that are threads of the same physical core, `cpu` among them."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return {cpu} | _cpu_list(cgroup_text(topology / "thread_siblings_list"))


def _cpu_list(text: str) -> set[int]:
    """The CPUs of a list such as 0-3,8."""
    ranges = [(int(first), int(last or first)) for first, last in re.findall(r"(\d+)(?:-(\d+))?", text)]
    return {cpu for first, last in ranges for cpu in range(first, last + 1)}
