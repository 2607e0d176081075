"""The CPUs that this process may use: their number, by affinity, quota and the instance's share, and what they can."""

import math
import os
from pathlib import Path

from app.machine.cgroups import ROOT, cgroup_text, groups
from app.machine.machine_share import inherited_share


def allowed_cpus() -> int:
    """The number of CPUs that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cpus() -> int:
    """The number of allowed CPUs, or the control group's CPU quota, rounded up, if that is less.

    With more threads the kernel only stops all of them for the rest of each period. In one of several instances its
    share, rounded up, takes the place of the quota.
    """
    share = inherited_share()
    quota = cpu_quota() if share is None else share.cpus
    return allowed_cpus() if quota is None else max(1, min(allowed_cpus(), math.ceil(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """The least CPU quota, in CPUs, of this process's control groups; None without a quota.

    Source: the kernel's documentation of cgroup v1 (sched-bwc) and v2 (cpu.max).
    """
    readers = {1: _quota_v1, 2: _quota_v2}
    quotas = [readers[version](group) for version, group in groups("cpu", root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def has_dot_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPUs have instructions for sums of 8-bit products; False where the system does not say."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        return False
    return bool(words & _DOT_PRODUCTS)


_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}  # as Linux calls them, on x86 and on Arm


def _quota_v2(group: Path) -> float | None:
    match cgroup_text(group / "cpu.max").split():
        case [quota, period] if quota.isdecimal() and int(period):
            return int(quota) / int(period)
    return None


def _quota_v1(group: Path) -> float | None:
    quota, period = (cgroup_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None
