"""Contestants that run a bundle's graph: the runtimes with their defaults, and this project's engines."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime

from app.engines.engine_process.selection import EngineRequest, EngineSearch
from app.engines.interface import Engine, EngineFiles, TensorRTPlan
from app.engines.registry import AUTO, offered_engines
from app.errors import NoEngine
from benchmarks.contest.contestant import Contestant, Images, Logits, Task
from bundle.file_names import GRAPHS
from bundle.golden import Golden, mismatch
from bundle.reader import Bundle, open_bundle

SEARCH_SECONDS = 300  # for each step of an engine
CHOSEN_PRECISIONS = {"bf16": "bf16, its own choice", "f16": "fp16, its own choice"}


class OnnxRuntime(Contestant):
    """An InferenceSession of the bundle's float32 graph, with default options."""

    def _start(self, task: Task) -> str:
        graph = Path(task.bundle) / GRAPHS["f32"]
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return ""

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._session.run(["logits"], {"image": images})[0]
        return logits


class OpenVino(Contestant):
    """The bundle's float32 graph compiled for the CPU with default options, batch and side left dynamic."""

    def _start(self, task: Task) -> str:
        import openvino

        self._compiled = openvino.Core().compile_model(Path(task.bundle) / GRAPHS["f32"], "CPU")
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return CHOSEN_PRECISIONS.get(precision, "")

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._compiled({"image": images})["logits"].copy()
        return logits


class Ours(Contestant):
    """The engine called `name` in `precision`, as the service would run it: it gives the bundle's golden logits."""

    def _start(self, task: Task, name: str, precision: str) -> str:
        bundle = open_bundle(Path(task.bundle))
        choice = _chosen(bundle, task.resolution, precision) if name == AUTO else (name, precision)
        self._engine = _loaded(files_of(bundle, task.resolution), bundle.golden(task.resolution), *choice)
        return f"{self._engine.name} {self._engine.precision}" if name == AUTO else ""

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._engine.run(images)[0]
        return logits

    def _profile(self, call: Callable[[], object]) -> str:
        if self._engine.name in ("openvino", "onnxruntime"):
            return super()._profile(call)
        from benchmarks.contest.pytorch import kernels

        return kernels(call, "cuda")


def files_of(bundle: Bundle, resolution: int) -> EngineFiles:
    """What an engine is given of `bundle`, as app.engines.engine_process.engine_host has it."""
    return EngineFiles(
        {precision: (bundle.path / GRAPHS[precision]).read_bytes for precision in bundle.graphs},
        [TensorRTPlan(plan.manifest, partial(_content, plan.file)) for plan in bundle.plans.fit.get(resolution, [])],
        bundle.plan_command(resolution),
    )


def _chosen(bundle: Bundle, resolution: int, precision: str) -> tuple[str, str]:
    """The engine and precision that the service takes by itself; `precision` may be "auto" too."""
    search = EngineSearch(bundle, resolution, EngineRequest(AUTO, precision), seconds=SEARCH_SECONDS)
    try:
        found = search.find()
        return found.name, found.precision
    finally:
        search.stop()


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
