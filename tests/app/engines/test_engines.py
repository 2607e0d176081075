"""The real engines on the real graph; the graph itself is compared in tests/export/test_to_onnx.py."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from app.engines.cpu import onnxruntime_engine, openvino_engine
from app.engines.cpu.openvino_engine import OpenVinoEngine
from app.engines.interface import Engine, EngineFiles
from app.engines.registry import offered_engines
from tests.support import reference_network

ROOT = Path(__file__).parents[3]
GOLDEN = np.load(reference_network.GOLDEN / "crossvit_tiny.npz")


def loaded(module: ModuleType, bundle: Path, side: int) -> Engine:
    """The engine that `module` offers in float32."""
    files = EngineFiles({"f32": (bundle / "model.onnx").read_bytes})
    name = module.__name__.rpartition(".")[2].removesuffix("_engine")
    (engine,) = (offered for offered in offered_engines(name, files, side) if offered.precision == "f32")
    engine.load(side)
    found: Engine = engine
    return found


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long batches take is for test_curve."""
    monkeypatch.setattr(onnxruntime_engine, "_MEASURED_BATCHES", (1,))


@pytest.mark.parametrize("module", [onnxruntime_engine, openvino_engine])
@pytest.mark.parametrize("side", [224, 408, pytest.param(480, marks=pytest.mark.exhaustive)])
def test_a_specialised_engine_gives_the_reference_logits(bundle: Path, module: ModuleType, side: int) -> None:
    engine = loaded(module, bundle, side)
    for batch in (3, 1, 2) if side == 224 else (2,):
        outputs = engine.run(reference_network.images(side)[:batch])
        assert outputs.dtype == np.float32
        for logits, name in zip(outputs, ("logits", "small", "large"), strict=True):
            np.testing.assert_allclose(logits, GOLDEN[f"{name}_{side}"][:batch], atol=1e-5, rtol=0)


@pytest.mark.parametrize("module", [onnxruntime_engine, openvino_engine])
def test_outputs_are_unchanged_by_the_next_run(bundle: Path, module: ModuleType) -> None:
    engine = loaded(module, bundle, 224)
    first = engine.run(reference_network.images(224)[:1])
    kept = first.copy()
    engine.run(reference_network.images(224)[1:2])
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("module", [onnxruntime_engine, openvino_engine])
def test_a_closed_engine_runs_nothing_more(bundle: Path, module: ModuleType) -> None:
    engine = loaded(module, bundle, 224)
    engine.close()
    engine.close()
    with pytest.raises(KeyError):
        engine.run(reference_network.images(224)[:1])


@pytest.mark.skipif("bf16" not in openvino_engine.PRECISIONS, reason="this CPU has no bfloat16 instructions")
def test_bfloat16_stays_near_the_reference_logits(bundle: Path) -> None:
    engine = OpenVinoEngine((bundle / "model.onnx").read_bytes, "bf16")
    engine.load(224)
    logits = engine.run(reference_network.images(224))[0]
    assert 1e-5 < np.abs(logits - GOLDEN["logits_224"]).max() < 0.15  # not float32 in disguise, and not wrong


@pytest.mark.parametrize(
    "command",
    [
        [
            "-c",
            "import app.engines.cpu.onnxruntime_engine, onnxruntime;"
            "onnxruntime.InferenceSession('{bundle}/model.onnx')",
        ],
        ["-c", "import app.engines.cpu.openvino_engine, openvino; openvino.Core()"],
        ["-c", "import export.measurement.openvino_precisions; export.measurement.openvino_precisions.has_bfloat16()"],
        ["export/to_onnx.py", "--help"],
    ],
)
def test_engines_send_no_telemetry(bundle: Path, tmp_path: Path, command: list[str]) -> None:
    """They keep who is using them, and what is going to be sent, in the home folder."""
    done = subprocess.run(
        [sys.executable, *(word.format(bundle=bundle) for word in command)],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},  # without CI's, where they say nothing
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(("cpus", "usable", "threads"), [(64, 2, 2), (8, 8, 0)])
def test_threads_are_counted_for_it_where_some_cpus_may_not_be_used(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, usable: int, threads: int
) -> None:
    """By a quota, or by a cpuset, of which os.cpu_count knows nothing either."""
    seen: list[int] = []

    class Session:
        def __init__(self, _: bytes, options: onnxruntime.SessionOptions, **__: object) -> None:
            seen.append(options.intra_op_num_threads)

        def run(self, *_: object) -> list[NDArray[np.float32]]:
            return [np.zeros((1, 1000), np.float32)] * 3

    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    monkeypatch.setattr(onnxruntime_engine, "usable_cpus", lambda: usable)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    loaded(onnxruntime_engine, bundle, 224)
    assert seen == [threads]
