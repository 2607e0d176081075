"""Why no engine comes of it: what TensorRT and CUDA say, as sentences that say what would do."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NO_GPU = (
    "there is no NVIDIA GPU here that CUDA can see; engines are built on the machine that will use them "
    "(in a container: start it with --gpus all; CUDA_VISIBLE_DEVICES may hide it)"
)
MORE_MEMORY = "end what else uses it, or ask for smaller --batch-sizes or a smaller --workspace"
_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|memory is insufficient|could not be allocated", re.IGNORECASE
)
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class NodeError:
    """What TensorRT's parser has against a node of the graph."""

    operator: str
    name: str
    index: int
    text: str
    where: str


def not_parsed(errors: Iterable[NodeError]) -> str:
    """All of them, each with its node."""
    lines = [
        f"  {error.operator} {error.name!r} (node {error.index}): {error.text} [{error.where}]" for error in errors
    ]
    return "\n".join(["TensorRT cannot take the graph; a newer TensorRT may, or another --precision:", *lines])


def failed(what: str, said: Iterable[str], memory: tuple[int, int] | None) -> str:
    """`what` failed, and TensorRT logged what it `said`; `memory` is the GPU's free bytes and all of them, if known."""
    lines = [f"  {line}" for line in dict.fromkeys(said)] or ["  TensorRT gave no reason"]
    if any(_MEMORY.search(line) for line in lines):
        room = f"{memory[0] / 2**30:.1f} of {memory[1] / 2**30:.1f} GiB are free now; " if memory else ""
        what = f"{what}: the GPU's memory does not suffice ({room}{MORE_MEMORY})"
    return "\n".join([f"{what}:", *lines])


def no_driver(driver: int, runtime: int) -> str:
    """`driver` and `runtime` are versions of CUDA as CUDA counts them: 13000 is 13.0; no driver is 0."""
    if driver == 0:
        return "there is no NVIDIA driver here; engines are built on the machine whose GPU will use them"
    return (
        f"the NVIDIA driver here knows CUDA up to {dotted(driver)}, but the package cuda-bindings is for "
        f"{dotted(runtime)}: update the driver, or pip install 'cuda-bindings=={driver // 1000}.*'"
    )


def driver_version(file: Path = _DRIVER) -> str | None:
    """The driver's own version, such as 580.95.05; None where the system does not tell, as under WSL."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)*\b", file.read_text().partition("\n")[0])
    except OSError:
        return None
    return found and found[0]


def dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
