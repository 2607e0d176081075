"""Processes of this machine, as /proc shows them: descendants, workers, memory and processor time."""

import os
import re
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue  # it has just ended
        children.setdefault(int(text.rpartition(") ")[2].split()[1]), []).append(int(path.parent.name))
    members = [pid]
    for member in members:
        members += children.get(member, [])
    return members


def workers(pid: int, role: str = "") -> list[int]:
    """The worker processes of `pid` with a role that begins with `role`, in the order of their numbers."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_text().split("\0")
        except (OSError, ValueError):
            continue  # it has just ended
        if parent == pid and "app.processes.worker_main" in command and command[5].startswith(role):
            found.append(int(status.parent.name))
    return sorted(found)


def resident_mb(pid: int) -> float:
    """Memory of a process and its descendants; shared memory counts in each of them."""
    return sum(_kilobytes(member, "status", "VmRSS") for member in family(pid)) / 1000


def proportional_mb(pid: int) -> float:
    """Memory of a process and its descendants; shared memory counts once."""
    return sum(_kilobytes(member, "smaps_rollup", "Pss") for member in family(pid)) / 1000


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its descendants have used, on all cores."""
    return sum(map(own_cpu_seconds, family(pid)))


def own_cpu_seconds(pid: int) -> float:
    """Processor time that one process has used, on all cores; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_orphan(pid: int) -> bool:
    """Whether `pid` runs and its parent has ended: the number may belong to another process by now."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:2]
    except OSError:
        return False
    return state != "Z" and parent == "1"


def _kilobytes(pid: int, file: str, field: str) -> int:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0
    return sum(map(int, re.findall(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)))
