"""ONNX Runtime on the CPU."""

import os
from collections.abc import Iterator

import numpy as np
import onnxruntime

from app.engines.batch_timing import known_seconds, least_seconds, worthwhile_batch
from app.engines.interface import EngineFiles, ReadGraph, Store
from app.machine.cpus import usable_cpus
from bundle.tensors import INPUT, OUTPUTS, Images, Outputs

_MEASURED_BATCHES: tuple[int, ...] = (1, 4, 8)


class OnnxRuntimeEngine:
    """One session for each side, which takes batches of any size."""

    name = "onnxruntime"
    precision = "f32"

    def __init__(self, graph: ReadGraph, store: Store | None = None) -> None:
        self.batch = 1
        self._graph = graph
        self._store = store
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}

    def load(self, side: int) -> None:
        if side in self._sessions:
            return
        options = onnxruntime.SessionOptions()
        if usable_cpus() < (os.cpu_count() or 1):  # it ignores quotas, and pins threads to CPUs that it may not use
            options.intra_op_num_threads = usable_cpus()
        options.add_free_dimension_override_by_name("side", side)
        self._sessions[side] = onnxruntime.InferenceSession(self._graph(), options, providers=["CPUExecutionProvider"])
        seconds = known_seconds(self._store, f"onnxruntime-{side}-seconds", lambda: self._measured(side))
        self.batch = worthwhile_batch(seconds)

    def run(self, images: Images) -> Outputs:
        return np.stack(self._sessions[images.shape[1]].run(list(OUTPUTS), {INPUT: images}))

    def close(self) -> None:
        self._sessions.clear()

    def _measured(self, side: int) -> dict[int, float]:
        images = np.zeros((max(_MEASURED_BATCHES), side, side, 3), np.uint8)
        return {size: least_seconds(lambda size=size: self.run(images[:size])) for size in _MEASURED_BATCHES}  # type: ignore[misc]


def offer_onnxruntime(files: EngineFiles, _: int) -> Iterator[OnnxRuntimeEngine]:
    yield OnnxRuntimeEngine(files.graphs["f32"], files.store)
