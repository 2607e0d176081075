"""The contestants of this project: an engine of app.engines with a bundle's files, at one resolution."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from app.engines.interface import Engine, EngineFiles, TensorRTPlan
from app.engines.registry import AUTO, offered_engines
from app.errors import NoEngine
from benchmarks.gpu.contestant import PROFILED_CALLS, WARM_UP_CALLS, Contestant, Images, Logits
from benchmarks.gpu.profiles import session_nodes, torch_kernels
from bundle.file_names import GRAPHS
from bundle.golden import Golden, mismatch
from bundle.reader import Bundle, open_bundle
from bundle.tensors import OUTPUTS

PROVIDERS = {  # of the session that is profiled
    "onnxruntime-cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "onnxruntime-tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
    "onnxruntime": ["CPUExecutionProvider"],
}


class Ours(Contestant):
    """The engine called `name` in `precision`, as the service would run it: it gives the bundle's golden logits."""

    def _start(self, name: str, precision: str, path: str, resolution: int, side: int) -> dict[str, Any]:
        bundle = open_bundle(Path(path))
        self._files = files_of(bundle, resolution)
        self._side = side
        self._engine = _loaded(self._files, bundle.golden(resolution), name, precision)
        return {"batch_limit": self._engine.batch}

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._engine.run(images)[0]
        return logits

    def _profile(self, call: Callable[[], object]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._engine.name not in ("openvino", "onnxruntime"):
            found["kernels"] = torch_kernels(call, "cuda")
        if self._engine.name in PROVIDERS:
            found |= self._nodes(PROVIDERS[self._engine.name])
        if not found:
            found["note"] = f"{self._engine.name} has no profile here"
        return found

    def _nodes(self, providers: list[str]) -> dict[str, Any]:
        """What a session of its own, with profiling and without CUDA graphs, says of its nodes."""
        import onnxruntime

        graph = self._files.graphs.get(self._engine.precision, self._files.graphs["f32"])
        images = next(iter(self._pools.values()))[0][: self._engine.batch]
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.add_free_dimension_override_by_name("side", self._side)
            without = []
            if len(providers) > 1:  # on a GPU, as app.engines.gpu.bound_session has it
                options.add_free_dimension_override_by_name("batch", len(images))
                without = ["MatMulAddFusion"]
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(graph(), options, providers=providers, disabled_optimizers=without)
            for _ in range(WARM_UP_CALLS + PROFILED_CALLS):
                session.run(list(OUTPUTS), {"image": images})
            return session_nodes(Path(session.end_profiling()), skipped=WARM_UP_CALLS)


def files_of(bundle: Bundle, resolution: int) -> EngineFiles:
    """What an engine is given of `bundle`, as app.engines.engine_process.engine_host has it."""
    return EngineFiles(
        {precision: (bundle.path / GRAPHS[precision]).read_bytes for precision in bundle.graphs},
        [TensorRTPlan(plan.manifest, partial(_content, plan.file)) for plan in bundle.plans.fit.get(resolution, [])],
        bundle.plan_command(resolution),
    )


def _loaded(files: EngineFiles, golden: Golden, name: str, precision: str) -> Engine:
    """The first engine called `name` in `precision`, which gives the golden logits; ValueError if there is none."""
    side = golden.images.shape[1]
    for engine in offered_engines(name, files, side):
        if precision in (AUTO, engine.precision):
            engine.load(side)
            wrong = mismatch(golden, engine.run(golden.images), engine.precision)
            if wrong:
                raise ValueError(f"{name} {engine.precision} gives wrong answers: {wrong}")
            return engine
    raise NoEngine(f"{name} does not run in {precision} here")


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)
