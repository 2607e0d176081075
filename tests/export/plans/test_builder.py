"""What of export.plans.builder can be shown without a GPU: that it loads with the real bindings, and what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bindings.fetch import NotToBeHad
from tests.bindings.tensorrt import PACKAGES, importable

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
