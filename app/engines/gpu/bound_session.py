"""A session of ONNX Runtime with all shapes fixed, its inputs and outputs bound to memory of a device once."""

import logging
import time
from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession, OrtValue

from app.engines.interface import EngineRefused
from bundle.tensors import INPUT, OUTPUTS, Images, Outputs

log = logging.getLogger(__name__)

Providers = list[tuple[str, dict[str, str]]]  # execution providers and their options, the best first

_UNCAPTURED_RUNS = 2  # memory is taken and convolutions are tuned in the first
_WARM_UP_RUNS = 3  # after those: a CUDA graph is captured in the first


@dataclass(frozen=True)
class BatchShape:
    """The number of images that a session takes, and their side in pixels."""

    images: int
    side: int


def open_session(graph: bytes, shape: BatchShape, providers: Providers) -> InferenceSession:
    """A session whose nodes all run on `providers`.

    ONNX Runtime runs nodes that they cannot run on the CPU, and leaves out providers that do not load: EngineRefused
    then, naming them.
    """
    session = _open(graph, shape, providers)
    requested = [name for name, _ in providers]
    if session.get_providers()[0] != requested[0]:
        raise EngineRefused(f"ONNX Runtime did not load {requested[0]}; its lines on stderr say why")
    astray = nodes_elsewhere(session, requested)
    if astray:
        raise EngineRefused(
            f"ONNX Runtime {onnxruntime.__version__} puts {len(astray)} nodes of the graph on the CPU, such as "
            f"{', '.join(astray[:3])}: install a newer onnxruntime-gpu"
        )
    second = nodes_elsewhere(session, requested[:1])
    if second:
        log.warning(
            "%s leaves %d nodes to %s, such as %s", requested[0], len(second), requested[1], ", ".join(second[:3])
        )
    return session


def nodes_elsewhere(session: InferenceSession, providers: list[str]) -> list[str]:
    """The nodes that run on none of `providers`, as "type name"."""
    return [
        f"{node.op_type} {node.name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name not in providers
        for node in part.get_nodes()
    ]


def _open(graph: bytes, shape: BatchShape, providers: Providers) -> InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("batch", shape.images)
    options.add_free_dimension_override_by_name("side", shape.side)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Between fixed shapes this one makes Gemm of MatMul and Add. CUDA's Gemm writes the bias down before it multiplies,
    # and no GELU is fused with its bias any more.
    without = ["MatMulAddFusion"]
    # No fallback: by itself it tries again with other providers when one fails.
    return InferenceSession(graph, options, providers=providers, disabled_optimizers=without, enable_fallback=0)


def _without_graph() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")  # captures none, and launches none
    return options


class BoundSession:
    """Runs batches of up to `shape.images`; smaller ones are filled with images that were there before."""

    def __init__(self, session: InferenceSession, shape: BatchShape, device: str) -> None:
        size, side = shape.images, shape.side
        self.classes: int = session.get_outputs()[0].shape[1]
        self._session = session
        self._staged = np.zeros((size, side, side, 3), np.uint8)
        self._images = OrtValue.ortvalue_from_shape_and_type(self._staged.shape, np.uint8, device)
        self._outputs = [
            OrtValue.ortvalue_from_shape_and_type((size, self.classes), np.float32, device) for _ in OUTPUTS
        ]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._images)
        for name, output in zip(OUTPUTS, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, output)

    def run(self, images: Images, outputs: Outputs, *, captured: bool = True) -> None:
        """Write the logits of `images` to `outputs`, float32 (outputs, images, classes).

        A session with CUDA graphs captures one in its first run that is `captured`, and launches it from then on.
        """
        if len(images) < len(self._staged):
            self._staged[: len(images)] = images
            images = self._staged
        self._images.update_inplace(images)
        self._binding.synchronize_inputs()  # the copy is on another stream than the run
        self._session.run_with_iobinding(self._binding, None if captured else _without_graph())
        self._binding.synchronize_outputs()
        for to, output in zip(outputs, self._outputs, strict=True):
            to[:] = output.numpy()[: len(to)]

    def seconds(self, timed: int) -> float:
        """The seconds of a run once it is warm: the least of `timed`."""
        images = np.zeros_like(self._staged)
        outputs = np.empty((len(OUTPUTS), len(images), self.classes), np.float32)
        for _ in range(_UNCAPTURED_RUNS):  # memory that the arena takes now is not taken while a graph is captured
            self.run(images, outputs, captured=False)
        times = []
        for _ in range(_WARM_UP_RUNS + timed):
            started = time.perf_counter()
            self.run(images, outputs)
            times.append(time.perf_counter() - started)
        return min(times[_WARM_UP_RUNS:])
