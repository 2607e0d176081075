"""A description of the machine and its GPU for reports."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "timm",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu13-bindings",
    "tensorrt-cu12-bindings",
    "cuda-bindings",
    "numpy",
)


def machine() -> dict[str, Any]:
    """What can be known without PyTorch."""
    return {
        "commit": _commit(),
        **_driver(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := _version(package))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    said = subprocess.run(
        [git, "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    )
    return said.stdout.strip() or "unknown"


def _driver() -> dict[str, str]:
    """Driver, and the CUDA version that it brings."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return {}
    said = subprocess.run([nvidia_smi], capture_output=True, text=True).stdout
    found = re.search(r"Driver Version:\s*(\S+).*?CUDA Version:\s*(\S+)", said)
    return {"driver": found[1], "cuda_of_driver": found[2]} if found else {}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()
