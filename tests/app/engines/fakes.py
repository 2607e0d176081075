"""Engines of a GPU that is not there: ONNX Runtime on the CPU under their names. What they do stands in a file.

`FAKE_GPU` in the environment names the file, which has one word for each engine: "tensorrt=works". The words are the
keys of what `_Fake` and `_offers` do. To be taken in a worker they need `in_workers`.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engines import registry
from app.engines.cpu import onnxruntime_engine
from app.engines.cpu.onnxruntime_engine import OnnxRuntimeEngine
from app.engines.engine_process import selection
from app.engines.interface import EngineFiles, EngineRefused
from bundle.tensors import Images, Outputs

FILE = "FAKE_GPU"
_CUSTOMIZE = "from tests.app.engines import fakes\nfakes.register()\n"


class Gpu:
    """What the file says, to be changed by a test while engines run."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def does(self, **words: str) -> None:
        self._file.write_text(" ".join(f"{name}={word}" for name, word in words.items()))


def in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A fake GPU for the workers that this process starts from now on; "tensorrt" and "cuda" are on it.

    Of the real engines ONNX Runtime is tried.
    """
    (tmp_path / "customize").mkdir()
    (tmp_path / "customize" / "sitecustomize.py").write_text(_CUSTOMIZE)
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'customize'}:{root}")
    monkeypatch.setenv(FILE, str(tmp_path / "gpu"))
    monkeypatch.setattr(selection, "TIERS", (("tensorrt",), ("onnxruntime-cuda",), ("onnxruntime",)))
    gpu = Gpu(tmp_path / "gpu")
    gpu.does(tensorrt="works", cuda="works")
    return gpu


def register() -> None:
    """Have the fakes offered in this process."""
    module = "tests.app.engines.fakes"
    registry.ENGINES |= {"tensorrt": f"{module}:tensorrt", "onnxruntime-cuda": f"{module}:cuda"}
    onnxruntime_engine._MEASURED_BATCHES = (1,)  # no time is spent on measuring it


def tensorrt(files: EngineFiles, side: int) -> Iterator["_Fake"]:
    for plan in files.plans:
        if _word("tensorrt") == "reads":
            plan.read()
        yield from _offers("tensorrt", files, plan.manifest.precision, max(plan.manifest.batch_sizes))
    if not files.plans and _word("tensorrt") != "gone":
        raise EngineRefused(f"there is no plan for {side}: {files.command}")


def cuda(files: EngineFiles, _: int) -> Iterator["_Fake"]:
    yield from _offers("cuda", files, "f32", 16)


def _offers(key: str, files: EngineFiles, precision: str, batch: int) -> Iterator["_Fake"]:
    match _word(key):
        case "gone":
            return
        case "missing":
            raise ModuleNotFoundError("No module named 'x'")
        case "broken":
            raise OSError("libx.so is no library")
        case "refused":
            raise EngineRefused("the driver is too old; update it")
    yield _Fake(key, files, precision, batch)


class _Fake(OnnxRuntimeEngine):
    broken = False  # the GPU, for all that is in this process

    def __init__(self, key: str, files: EngineFiles, precision: str, batch: int) -> None:
        super().__init__(files.graphs["f32"])
        self.name = {"cuda": "onnxruntime-cuda"}.get(key, key)
        self.precision = precision
        self._best = batch
        self._key = key

    def load(self, side: int) -> None:
        match _word(self._key):
            case "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hangs":
                time.sleep(1000)
        super().load(side)

    def _measured(self, _: int) -> dict[int, float]:
        return {self._best: 1.0}

    def run(self, images: Images) -> Outputs:
        if _Fake.broken:
            raise RuntimeError("CUDA failure 700")
        match _word(self._key):
            case "fails" | "gone":
                raise RuntimeError("the GPU has fallen off the bus")
            case "breaks":
                _Fake.broken = True
                raise RuntimeError("cudaErrorIllegalAddress")
            case "lies":
                return -super().run(images)
        return super().run(images)


def _word(key: str) -> str:
    words = dict(pair.split("=") for pair in Path(os.environ[FILE]).read_text().split())
    return words.get(key, "gone")
