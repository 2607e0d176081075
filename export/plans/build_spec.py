"""Input and output of a TensorRT build, as plain data: nothing here needs a GPU, TensorRT or PyTorch.

export.plans.builder is the one implementation of `PlanBuilder`; all other code uses this protocol.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bundle.bundle_errors import ExplainedError
from bundle.precisions import BF16, F32, FP16, PlanPrecision
from bundle.tensors import Images, Outputs

# Values of --precision, and what bundles call them.
PRECISION_OPTIONS: dict[str, PlanPrecision] = {"fp16": FP16, "bf16": BF16, "fp32": F32}


class Unable(ExplainedError):
    """No engine can be built; the message says why, and how to mend it."""


@dataclass(frozen=True)
class Device:
    """A GPU with its software.

    Attributes:
        tensorrt: the version of TensorRT.
        gpu: the GPU's name.
        compute_capability: the GPU's, such as "9.0".
        driver: the NVIDIA driver's version.
        cuda: the newest CUDA that the driver supports.
        memory_bytes: of the GPU, in all.
    """

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    cuda: str
    memory_bytes: int


@dataclass(frozen=True)
class BuildSpec:
    """How to build an engine.

    Attributes:
        precision: of the graph.
        side: of the images, in pixels.
        batch_sizes: profile i is for `batch_sizes[i]` images.
        workspace_bytes: the most GPU memory for a kernel's scratch; None is all.
        joined: profiles also take fewer images, down to one more than the profile before.
        optimization_level: TensorRT's builder_optimization_level.
        version_compatible: later TensorRT of the same major version can read the plan.
        timing_cache: the measurements of an earlier build, or nothing.
    """

    precision: PlanPrecision
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
    """A plan as TensorRT serialised it. `notes` are its warnings, and whether it took the timing cache."""

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

    def build(self, graph: bytes, spec: BuildSpec, progress: Progress) -> BuiltPlan:
        """The engine of `graph`, an ONNX model in which only the batch is open."""

    def run(self, plan: bytes, spec: BuildSpec, images: Images) -> Sequence[Outputs]:
        """For each profile of `plan` its (outputs, images, classes) for all `images` (images, side, side, 3)."""


def check_version(tensorrt: str) -> None:
    """Raise Unable unless `tensorrt` is one of the versions that this is written for, 10.13 to 11."""
    version = re.match(r"(\d+)\.(\d+)", tensorrt)
    if version is None or not (10, 13) <= (int(version[1]), int(version[2])) < (12, 0):
        raise Unable(
            f"TensorRT {tensorrt} is installed; supported is 10.13 and newer, and 11: pip install 'tensorrt>=10.13,<12'"
        )


def engine_name(resolution: int, precision: str, gpu: str, tensorrt: str) -> str:
    """The folder of an engine: 224-fp16-nvidia-h100-80gb-hbm3-trt10.16.1.11."""
    return f"{resolution}-{precision}-{slug(gpu)}-trt{tensorrt}"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
