"""A description of the machine for reports."""

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu import machine as common

PEERS = ("fastapi", "uvicorn", "litserve", "pillow")
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def facts() -> dict[str, Any]:
    """CPU, cores that this process may use, instructions that matter to matrix products, versions and commit."""
    found = common.machine()
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["instructions"] = instructions(_cpuinfo())
    found["family"] = family(_cpuinfo())
    found["versions"] |= {package: there for package in PEERS if (there := _version(package))}
    return found


def line() -> str:
    """The same as one line."""
    return described(facts())


def described(facts: dict[str, Any]) -> str:
    """`facts` as one line."""
    versions = ", ".join(f"{package} {there}" for package, there in facts["versions"].items())
    return (
        f"{facts['cores']} cores of {facts['cpu']} ({', '.join([facts['family'], *facts['instructions']])}), "
        f"Python {facts['python']}, {versions}; commit {facts['commit']}"
    )


def instructions(cpuinfo: str) -> list[str]:
    """Those of INSTRUCTIONS that /proc/cpuinfo lists."""
    flags = re.search(r"^(?:flags|Features)\s*: (.*)", cpuinfo, re.MULTILINE)
    return [name for name in INSTRUCTIONS if flags and name in flags[1].split()]


def family(cpuinfo: str) -> str:
    """What tells CPUs apart whose names were taken away by a virtual machine."""
    found = dict(re.findall(r"^(cpu family|model)\s*: (\d+)", cpuinfo, re.MULTILINE))
    return f"family {found['cpu family']}, model {found['model']}" if len(found) == 2 else "family unknown"


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
