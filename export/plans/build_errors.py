"""Error sentences for what TensorRT and CUDA report, with advice."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NO_GPU = (
    "CUDA finds no NVIDIA GPU here; engines are built on the machine that will use them "
    "(in a container: start it with --gpus all; CUDA_VISIBLE_DEVICES may hide it)"
)
MORE_MEMORY = "end other processes that use it, or ask for smaller --batch-sizes or a smaller --workspace"
_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|memory is insufficient|could not be allocated", re.IGNORECASE
)
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class NodeError:
    """An error of TensorRT's parser at a node of the graph."""

    operator: str
    name: str
    index: int
    text: str
    where: str


def not_parsed(errors: Iterable[NodeError]) -> str:
    """A sentence with all `errors`, each with its node."""
    lines = [
        f"  {error.operator} {error.name!r} (node {error.index}): {error.text} [{error.where}]" for error in errors
    ]
    return "\n".join(["TensorRT cannot take the graph; a newer TensorRT may, or another --precision:", *lines])


def failed(failure: str, log: Iterable[str], memory: tuple[int, int] | None) -> str:
    """`failure` with the lines of TensorRT's `log`; `memory` is the GPU's free and total bytes, if known."""
    lines = [f"  {line}" for line in dict.fromkeys(log)] or ["  TensorRT gave no reason"]
    if any(_MEMORY.search(line) for line in lines):
        room = f"{memory[0] / 2**30:.1f} of {memory[1] / 2**30:.1f} GiB are free now; " if memory else ""
        failure = f"{failure}: the GPU's memory does not suffice ({room}{MORE_MEMORY})"
    return "\n".join([f"{failure}:", *lines])


def no_driver(driver: int, runtime: int) -> str:
    """`driver` and `runtime` are versions of CUDA in its own notation: 13000 is 13.0. A `driver` of 0 is missing."""
    if driver == 0:
        return "no NVIDIA driver is installed here; engines are built on the machine whose GPU will use them"
    return (
        f"the NVIDIA driver here supports CUDA up to {dotted(driver)}, but the package cuda-bindings is for "
        f"{dotted(runtime)}: update the driver, or pip install 'cuda-bindings=={driver // 1000}.*'"
    )


def driver_version(file: Path = _DRIVER) -> str | None:
    """The driver's own version, such as 580.95.05; None where the system does not have it, as under WSL."""
    try:
        version = re.search(r"\b\d{3,}\.\d+(\.\d+)*\b", file.read_text().partition("\n")[0])
    except OSError:
        return None
    return version and version[0]


def dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
