"""The contestants, each in its own process: PyTorch, the runtimes with their defaults, and this project's engine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cpu.network import peer_network
from benchmarks.gpu.contestant import Contestant, Images, Logits
from benchmarks.gpu.engines import Ours
from benchmarks.gpu.profiles import torch_kernels
from benchmarks.gpu.pytorch import Pixels

PRECISION_NAMES = {"f32": "f32", "bf16": "bf16, its own choice", "f16": "fp16, its own choice"}


class PyTorch(Contestant):
    """Eager, under bfloat16 autocast, or compiled."""

    def _start(self, mode: str, bundle: str, resolution: int, side: int) -> dict[str, Any]:
        del resolution  # the images' side says it
        if mode == "compile" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
            raise RuntimeError("torch.compile needs a C++ compiler, and there is none (apt install g++)")
        network, source = peer_network(Path(bundle).name, side)
        pixels = Pixels(network, torch.float32)
        self._autocast = mode == "autocast"
        self._forward: Callable[[Tensor], Tensor] = pixels
        if mode == "compile":
            self._forward = torch.compile(pixels, dynamic=False)
        return {"source": source}

    def _run(self, images: Images) -> Logits:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            logits: Logits = self._forward(torch.from_numpy(images)).numpy()
        return logits

    def _profile(self, call: Callable[[], object]) -> dict[str, Any]:
        return {"kernels": torch_kernels(call, "cpu")}


class OnnxRuntime(Contestant):
    """An InferenceSession of the bundle's float32 graph, with default options."""

    def _start(self, bundle: str, resolution: int, side: int) -> dict[str, Any]:
        del resolution, side
        import onnxruntime

        self._session = onnxruntime.InferenceSession(Path(bundle) / "model.onnx", providers=["CPUExecutionProvider"])
        return {}

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._session.run(["logits"], {"image": images})[0]
        return logits


class OpenVino(Contestant):
    """The bundle's float32 graph compiled for the CPU with default options, batch and side left dynamic."""

    def _start(self, bundle: str, resolution: int, side: int) -> dict[str, Any]:
        del resolution, side
        import openvino

        self._compiled = openvino.Core().compile_model(Path(bundle) / "model.onnx", "CPU")
        return {
            "precision": PRECISION_NAMES.get(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string(), "")
        }

    def _run(self, images: Images) -> Logits:
        logits: Logits = self._compiled({"image": images})["logits"].copy()
        return logits


class Engine(Ours):
    """This project's engine as the service would have it, with a precision or the one that it takes by itself."""

    def _start(self, name: str, precision: str, path: str, resolution: int, side: int) -> dict[str, Any]:
        facts = super()._start(name, precision, path, resolution, side)
        return facts | {"engine": self._engine.name, "precision": self._engine.precision}
