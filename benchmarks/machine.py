"""A description of the machine and its GPU for reports."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
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
    """CPU, cores that this process may use, instructions that matter to matrix products, versions, commit, driver."""
    cpuinfo = _cpuinfo()
    names = re.findall(r"model name\s*: (.*)", cpuinfo)
    return {
        "commit": _commit(),
        **_driver(),
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": instructions(cpuinfo),
        "family": family(cpuinfo),
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := _version(package))},
    }


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


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def _driver() -> dict[str, str]:
    """Driver, and the CUDA version that it brings."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return {}
    said = subprocess.run([nvidia_smi], capture_output=True, text=True).stdout
    found = re.search(r"Driver Version:\s*(\S+).*?CUDA Version:\s*(\S+)", said)
    return {"driver": found[1], "cuda_of_driver": found[2]} if found else {}
