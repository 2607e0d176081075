"""A description of the machine for reports."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("torch", "torchvision", "triton", "timm", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "cuda-bindings", "numpy"),
    *("fastapi", "uvicorn", "litserve", "pillow"),
)
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def facts() -> dict[str, Any]:
    """CPU, cores that this process may use, versions, commit, and the driver of a GPU."""
    path = Path("/proc/cpuinfo")
    installed = {found.name: found.version for found in distributions()}
    return {
        "commit": _said("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown",
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cpu": cpu(path.read_text() if path.exists() else ""),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: installed[package] for package in PACKAGES if package in installed},
    }


def line() -> str:
    """The same as one line."""
    return described(facts())


def described(facts: dict[str, Any]) -> str:
    """`facts` as one line."""
    versions = ", ".join(f"{package} {there}" for package, there in facts["versions"].items())
    driver = f", driver {facts['driver']}" if facts["driver"] else ""
    where = f"{facts['cores']} cores of {facts['cpu']}{driver}"
    return f"{where}, Python {facts['python']}, {versions}; commit {facts['commit']}"


def cpu(cpuinfo: str) -> str:
    """What /proc/cpuinfo says: the name, what tells CPUs apart whose names virtual machines took away, instructions."""
    found = dict(re.findall(r"^(model name|cpu family|model|flags|Features)\s*: (.*)", cpuinfo, re.MULTILINE))
    flags = (found.get("flags") or found.get("Features") or "").split()
    names = [f"family {found.get('cpu family', 'unknown')}", f"model {found.get('model', 'unknown')}"]
    names += [name for name in INSTRUCTIONS if name in flags]
    return f"{found.get('model name', platform.processor())} ({', '.join(names)})"


def _said(*command: str) -> str:
    """What the command prints, or nothing."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
