"""Contestants that run a bundle's graph: the runtimes with their defaults, and this project's engines."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from app.engines.engine_process.selection import EngineRequest, EngineSearch
from app.engines.interface import Engine, EngineFiles, TensorRTPlan
from app.engines.registry import AUTO, offered_engines
from app.errors import NoEngine
from app.processes.shared_buffer import SharedBuffer
from benchmarks.contest.contestant import PROFILED_CALLS, WARM_UP_CALLS, Contestant, Images, Logits, Task
from benchmarks.contest.profiles import session_nodes, torch_kernels
from bundle.file_names import GRAPHS
from bundle.golden import Golden, mismatch
from bundle.reader import Bundle, open_bundle
from bundle.tensors import OUTPUTS

PROVIDERS = {  # of the session that is profiled
    "onnxruntime-cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "onnxruntime-tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
    "onnxruntime": ["CPUExecutionProvider"],
}
SEARCH_SECONDS = 300  # for each step of an engine
CHOSEN_PRECISIONS = {"bf16": "bf16, its own choice", "f16": "fp16, its own choice"}


class OnnxRuntime(Contestant):
    """An InferenceSession of the bundle's float32 graph, with default options."""

    def _start(self, task: Task) -> dict[str, Any]:
        import onnxruntime

        graph = Path(task.bundle) / GRAPHS["f32"]
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return {}

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._session.run(["logits"], {"image": images})[0]
        return logits


class OpenVino(Contestant):
    """The bundle's float32 graph compiled for the CPU with default options, batch and side left dynamic."""

    def _start(self, task: Task) -> dict[str, Any]:
        import openvino

        self._compiled = openvino.Core().compile_model(Path(task.bundle) / GRAPHS["f32"], "CPU")
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return {"note": CHOSEN_PRECISIONS[precision]} if precision in CHOSEN_PRECISIONS else {}

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._compiled({"image": images})["logits"].copy()
        return logits


class Ours(Contestant):
    """The engine called `name` in `precision`, as the service would run it: it gives the bundle's golden logits."""

    def _start(self, task: Task, name: str, precision: str) -> dict[str, Any]:
        bundle = open_bundle(Path(task.bundle))
        self._files = files_of(bundle, task.resolution)
        self._side = task.side
        choice = (name, precision)
        if name == AUTO:
            choice = _chosen(bundle, task.resolution, precision)
        self._engine = _loaded(self._files, bundle.golden(task.resolution), *choice)
        chosen = {"note": f"{self._engine.name} {self._engine.precision}"} if name == AUTO else {}
        return {"batch_limit": self._engine.batch, **chosen}

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


def _chosen(bundle: Bundle, resolution: int, precision: str) -> tuple[str, str]:
    """The engine and precision that the service takes by itself; `precision` may be "auto" too."""
    buffer = SharedBuffer()
    search = EngineSearch(bundle, resolution, EngineRequest(AUTO, precision), buffer, seconds=SEARCH_SECONDS)
    try:
        found = search.find()
        return found.name, found.precision
    finally:
        search.stop()
        buffer.close()


def _loaded(files: EngineFiles, golden: Golden, name: str, precision: str) -> Engine:
    """The engine called `name` in `precision`, which gives the golden logits; ValueError if it does not."""
    side = golden.images.shape[1]
    for engine in offered_engines(name, files, side):
        if engine.precision == precision:
            engine.load(side)
            wrong = mismatch(golden, engine.run(golden.images), engine.precision)
            if wrong:
                raise ValueError(f"{name} {engine.precision} gives wrong answers: {wrong}")
            return engine
    raise NoEngine(f"{name} does not run in {precision} here")


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)
