"""What of export.plans.builder can be shown without a GPU: that it loads with the real bindings, and what it says."""

import os
import subprocess
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from export.plans.build_spec import BuildSpec, Unable
from tests.bindings.fetch import NotToBeHad
from tests.bindings.tensorrt import PACKAGES, importable
from tests.support.modules import loaded_anew

SCRIPT = """
import importlib, sys
sys.modules["tensorrt"] = trt = importlib.import_module("tensorrt_bindings")  # as the package tensorrt does
from export.plans.build_spec import Unable
from export.plans.builder import _LOG, TensorRTBuilder, _Monitor

said = []

class Progress:
    def start(self, phase, parent, steps):
        said.append((phase, parent, steps))
    def step(self, phase, step):
        said.append((phase, step))
        return step < 1
    def finish(self, phase):
        said.append(phase)

monitor = _Monitor(Progress())
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start("Timing", None, 3)
assert monitor.step_complete("Timing", 0) is True
assert monitor.step_complete("Timing", 1) is False
monitor.phase_finish("Timing")
assert said == [("Timing", None, 3), ("Timing", 0), ("Timing", 1), "Timing"]

assert isinstance(_LOG, trt.ILogger)
for severity in trt.ILogger.Severity.__members__.values():
    _LOG.log(severity, severity.name)
assert _LOG.lines == ["INTERNAL_ERROR", "ERROR", "WARNING"], _LOG.lines
_LOG.clear()

try:
    TensorRTBuilder().device()
except Unable as err:
    print(err)
"""


@pytest.mark.parametrize("version", PACKAGES)
def test_it_loads_with_tensorrts_own_bindings_and_finds_no_gpu(
    version: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    assert pytestconfig.cache is not None
    try:
        bindings = importable(version, pytestconfig.cache.mkdir("bindings-wheels"), tmp_path)
    except NotToBeHad as err:
        (pytest.fail if os.environ.get("TESTS_COMPLETE") else pytest.skip)(str(err))
    environment = os.environ | {"PYTHONPATH": str(bindings), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("no NVIDIA driver is installed here", "CUDA finds no NVIDIA GPU here"))


REASON = "IOptimizationProfile: kMIN is over kOPT"
SPEC = BuildSpec("fp16", 224, (1, 8))


class _Logger:
    Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])


def on_fakes(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, MagicMock]:
    """The module export.plans.builder over fakes of TensorRT and of the CUDA runtime, and the first of them.

    All that the fakes are asked for succeeds.
    """
    trt, runtime = MagicMock(__version__="10.16.1.11", ILogger=_Logger, IProgressMonitor=object), MagicMock()
    trt.Builder.return_value.create_builder_config.return_value.add_optimization_profile.return_value = 0
    runtime.configure_mock(**{f"{name}.return_value": (runtime.cudaError_t.cudaSuccess, 16) for name in CUDA})
    runtime.cudaMemGetInfo.return_value = (runtime.cudaError_t.cudaSuccess, 1 << 30, 2 << 30)
    bindings = ModuleType("cuda.bindings")
    monkeypatch.setattr(bindings, "runtime", runtime, raising=False)
    modules = {"tensorrt": trt, "cuda": ModuleType("cuda"), "cuda.bindings": bindings}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return loaded_anew("export.plans.builder"), trt


CUDA = ("cudaStreamCreate", "cudaStreamDestroy", "cudaStreamSynchronize", "cudaMalloc", "cudaFree", "cudaMemcpyAsync")


def refusing(builder: Any, error: Exception | None = None) -> Callable[..., bool]:
    """A method of TensorRT that logs its reason, then raises `error` or returns false: as its bindings do."""

    def method(*_: Any) -> bool:
        builder._LOG.log(_Logger.Severity.ERROR, REASON)
        if error:
            raise error
        return False

    return method


def test_a_profile_that_tensorrt_refuses_ends_in_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    builder, trt = on_fakes(monkeypatch)
    profile = trt.Builder.return_value.create_optimization_profile.return_value
    error = RuntimeError("Shape provided for min is inconsistent with other shapes.")
    profile.set_shape.side_effect = refusing(builder, error)
    with pytest.raises(Unable, match=f"^TensorRT takes no profile for 1 images:\n  {REASON}$"):
        builder.TensorRTBuilder().build(b"graph", SPEC, MagicMock())


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (
            "set_optimization_profile_async",
            RuntimeError("Error in set optimization profile async."),
            r"the engine's profile 0 does not take images \(1, 224, 224, 3\)",
        ),
        ("set_input_shape", None, r"the engine's profile 0 does not take images \(1, 224, 224, 3\)"),
        ("set_tensor_address", None, "the engine takes no memory for image"),
        ("execute_async_v3", None, "the engine does not run"),
    ],
)
def test_a_built_plan_that_does_not_run_ends_in_tensorrts_reason(
    method: str, error: Exception | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, trt = on_fakes(monkeypatch)
    context = trt.Runtime.return_value.deserialize_cuda_engine.return_value.create_execution_context.return_value
    context.get_tensor_shape.return_value = (1, 5)
    context.configure_mock(**{f"{method}.side_effect": refusing(builder, error)})
    with pytest.raises(Unable, match=f"^{message}:\n  {REASON}$"):
        builder.TensorRTBuilder().run(b"plan", SPEC, np.zeros((1, 224, 224, 3), np.uint8))
