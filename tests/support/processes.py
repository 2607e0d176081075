"""Processes of this machine: descendants, workers, memory and processor time. One that has ended has used nothing."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

T = TypeVar("T")


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    return [pid, *(child.pid for child in _children(pid, recursive=True))]


def workers(pid: int, role: str = "") -> list[int]:
    """The worker processes of `pid` with a role that begins with `role`, in the order of their numbers."""
    found = []
    for child in _children(pid, recursive=False):
        command: list[str] = _of(child.pid, psutil.Process.cmdline, [])
        if "app.processes.worker_main" in command and _role(command).startswith(role):
            found.append(child.pid)
    return sorted(found)


def _role(command: list[str]) -> str:
    """A worker's: what follows the numbers of its files, of which other versions of the service pass more or fewer."""
    arguments = command[command.index("app.processes.worker_main") + 1 :]
    return next((argument for argument in arguments if not argument.isdigit()), "")


def instances(pid: int) -> dict[int, int]:
    """The processes of the instances that `pid` is the parent of, by the instances' numbers; the newest of each."""
    found = {}
    for child in sorted(_children(pid, recursive=False), key=lambda process: process.pid):
        command: list[str] = _of(child.pid, psutil.Process.cmdline, [])
        if "app.instances.instance_main" in command:
            found[int(json.loads(command[4])["number"])] = child.pid
    return found


def clients_of(pid: int, port: int) -> set[int]:
    """The clients' ports of the open connections that a process has accepted on `port`."""
    connections: list[Any] = _of(pid, lambda process: process.net_connections("tcp"), [])
    open_ones = (found for found in connections if found.status == psutil.CONN_ESTABLISHED)
    return {found.raddr.port for found in open_ones if found.laddr.port == port}


def resident_mb(pid: int) -> float:
    """Memory of a process and its descendants; shared memory counts in each of them."""
    return sum(map(own_resident_mb, family(pid)))


def own_resident_mb(pid: int) -> float:
    """Memory of one process."""
    return _of(pid, lambda process: process.memory_info().rss, 0) / 1e6


def proportional_mb(pid: int) -> float:
    """Memory of a process and its descendants; shared memory counts once."""
    return sum(_of(member, lambda process: process.memory_full_info().pss, 0) for member in family(pid)) / 1e6


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its descendants have used, on all cores."""
    return sum(map(own_cpu_seconds, family(pid)))


def own_cpu_seconds(pid: int) -> float:
    """Processor time that one process has used, on all cores."""
    return _of(pid, lambda process: sum(process.cpu_times()[:2]), 0.0)


def open_files(pid: int) -> int:
    """The open files of one process."""
    return _of(pid, psutil.Process.num_fds, 0)


def threads(pid: int) -> int:
    """The threads of one process."""
    return _of(pid, psutil.Process.num_threads, 0)


def is_orphan(pid: int) -> bool:
    """Whether `pid` runs and its parent has ended: the number may belong to another process by now."""
    return _of(pid, lambda process: process.status() != psutil.STATUS_ZOMBIE and process.ppid() == 1, False)


def _children(pid: int, *, recursive: bool) -> list[psutil.Process]:
    return _of(pid, lambda process: process.children(recursive=recursive), [])


def _of(pid: int, value: Callable[[psutil.Process], T], ended: T) -> T:
    """What `value` gives of the process; `ended` if it has ended."""
    try:
        return value(psutil.Process(pid))
    except psutil.Error:
        return ended
