"""A fake GPU that builds plans, and export/to_trt.py run with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
from numpy.typing import NDArray

from bundle.tensors import INPUT, OUTPUTS
from export import to_trt
from export.plans.build_spec import BuildSpec, BuiltPlan, Device, PlanBuilder, Progress, Unable
from export.plans.plan_source import PlanSource
from tests.support.reference_network import TINY

VIEWS = 3
DEVICE = Device("10.16.1.11", "NVIDIA H100 80GB HBM3", "9.0", "580.95.05", "13.0", 80 << 30)
FOLDER = "{}-fp16-nvidia-h100-80gb-hbm3-trt10.16.1.11"


@dataclass
class FakeGpu:
    """A fake: there is no GPU where these tests run. Its plans are the graphs, which ONNX Runtime runs on the CPU.

    `unfit` are sides at which it cannot build; `spoil` gets a batch size and the logits for it, to make them wrong.
    """

    unfit: dict[int, BaseException] = field(default_factory=dict)
    specs: list[BuildSpec] = field(default_factory=list)
    graphs: list[bytes] = field(default_factory=list)

    def device(self) -> Device:
        return DEVICE

    def build(self, graph: bytes, spec: BuildSpec, progress: Progress) -> BuiltPlan:
        self.specs.append(spec)
        self.graphs.append(graph)
        progress.start("Building", None, 2)
        assert progress.step("Building", 0)
        progress.finish("Building")
        if spec.side in self.unfit:
            raise self.unfit[spec.side]
        workspace = spec.workspace_bytes or DEVICE.memory_bytes
        return BuiltPlan(graph, workspace, b"timings %d" % len(self.specs), notes=("it was slow",))

    def run(self, plan: bytes, spec: BuildSpec, images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        answers = np.stack(session.run(list(OUTPUTS), {INPUT: images}))
        return [self.spoil(batch, answers.copy()) for batch in spec.batch_sizes]

    def spoil(self, batch: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ARG002
        return logits


_at, _made = PlanSource.at, dict[tuple[object, ...], onnx_ir.Model]()


def made_once(source: PlanSource, resolution: int, precision: str, attention: str) -> onnx_ir.Model:
    """What Source.at makes of the same graph is the same, and takes seconds."""
    key = (source.graph_sha256, resolution, precision, attention)
    if key not in _made:
        _made[key] = _at(source, resolution, precision, attention)
    return _made[key]


def run(bundle: Path, *options: str, gpu: PlanBuilder | None = None) -> int:
    found = gpu or FakeGpu()
    return to_trt.main(["--variant", TINY.name, "--bundle", str(bundle), *options], lambda: found)


def no_tensorrt() -> PlanBuilder:
    raise Unable("TensorRT is not installed: do this")
