"""What it takes to build an engine and what comes out, in plain data: nothing here needs a GPU, TensorRT or PyTorch.

export.plans.builder is the one implementation of `PlanBuilder`; all else that has to do with engines talks to this protocol.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PRECISIONS = {"fp16": "fp16", "bf16": "bf16", "fp32": "f32"}  # as the command line spells them, and as all else does


class Unable(Exception):
    """No engine comes of this: a sentence that says what was seen and what would do."""


@dataclass(frozen=True)
class Device:
    """A GPU and what drives it. `driver` is the driver's version, `cuda` the newest CUDA that it supports."""

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    cuda: str
    memory_bytes: int

    def described(self) -> dict[str, str]:
        """What a passport says of it."""
        return {
            "tensorrt": self.tensorrt,
            "gpu": self.gpu,
            "compute_capability": self.compute_capability,
            "driver": self.driver,
            "cuda": self.cuda,
        }


@dataclass(frozen=True)
class BuildSpec:
    """How an engine is to be built: profile i is for `batch_sizes[i]` images of `side` x `side` pixels.

    With `joined` it also takes fewer, down to one more than the profile before it takes. `workspace_bytes` None lets
    TensorRT use all of the GPU's memory. `timing_cache` is what an earlier build measured, or nothing.
    """

    precision: str
    side: int
    batch_sizes: tuple[int, ...]
    workspace_bytes: int | None = None
    joined: bool = False
    optimization_level: int = 3
    version_compatible: bool = False
    timing_cache: bytes = b""

    @property
    def least_sizes(self) -> tuple[int, ...]:
        """The smallest batch of each profile."""
        if not self.joined:
            return self.batch_sizes
        return (1, *(size + 1 for size in self.batch_sizes[:-1]))


@dataclass(frozen=True)
class BuiltPlan:
    """A plan as TensorRT serialised it. `notes` are what it warned of, and what became of the timing cache."""

    plan: bytes
    workspace_bytes: int
    timing_cache: bytes
    notes: tuple[str, ...] = ()


class Progress(Protocol):
    """Told of the phases of a build, in any thread; must not raise."""

    def start(self, phase: str, parent: str | None, steps: int) -> None: ...

    def step(self, phase: str, step: int) -> bool:
        """Whether to go on."""

    def finish(self, phase: str) -> None: ...


class PlanBuilder(Protocol):
    """The GPU of this machine, under TensorRT. Every method raises Unable."""

    def device(self) -> Device: ...

    def build(self, graph: bytes, order: BuildSpec, progress: Progress) -> BuiltPlan:
        """The engine of `graph`, an ONNX model in which only the batch is open."""

    def run(self, plan: bytes, order: BuildSpec, images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        """For each profile of `plan` its (outputs, images, classes) for all `images` (images, side, side, 3)."""


def check_version(tensorrt: str) -> None:
    """Unable if nothing here was written for this version of TensorRT: 10.13 to 11 it was."""
    found = re.match(r"(\d+)\.(\d+)", tensorrt)
    if found is None or not (10, 13) <= (int(found[1]), int(found[2])) < (12, 0):
        raise Unable(
            f"TensorRT {tensorrt} is installed; supported is 10.13 and newer, and 11: pip install 'tensorrt>=10.13,<12'"
        )


def engine_name(resolution: int, precision: str, gpu: str, tensorrt: str) -> str:
    """The folder of an engine: 224-fp16-nvidia-h100-80gb-hbm3-trt10.16.1.11."""
    return f"{resolution}-{precision}-{slug(gpu)}-trt{tensorrt}"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
