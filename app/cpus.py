"""How many CPUs this process may keep busy: those it may run on, and no more than its container's quota allows."""

import math
import os
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def allowed_cpus() -> int:
    """How many CPUs the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cpus() -> int:
    """The same, or the CPU quota of this process's control group if that is less, a part of a CPU counted as one.

    More threads than that only make the kernel stop all of them for the rest of each period.
    """
    quota = cpu_quota()
    return allowed_cpus() if quota is None else max(1, min(allowed_cpus(), math.ceil(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The least CPU quota, in CPUs, of this process's control groups, of version 1 or 2; None where there is none.

    A group's parents bind it too. In a container the path that /proc names is often not there: its own group is mounted
    as the root then. Source: the kernel's documentation of cgroup v1 (sched-bwc) and v2 (cpu.max).
    """
    quotas = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_quota_v2(group) for group in _groups(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu"):
                quotas += [_quota_v1(group) for group in _groups(root / "sys/fs/cgroup" / mount, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(mount: Path, path: str) -> list[Path]:
    """The group at `path` and its parents, up to the mount itself."""
    own = PurePosixPath(path.lstrip("/"))
    return [mount / group for group in (own, *own.parents) if ".." not in group.parts]


def _quota_v2(group: Path) -> float | None:
    match _text(group / "cpu.max").split():
        case [quota, period] if quota.isdecimal() and int(period):
            return int(quota) / int(period)
    return None


def _quota_v1(group: Path) -> float | None:
    quota, period = (_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
