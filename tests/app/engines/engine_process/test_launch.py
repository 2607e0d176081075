"""Real processes; the GPU in them is a fake, since there is none here, and its engines are ONNX Runtime on the CPU."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from app.engines.engine_process.engine_host import EngineHost
from app.engines.engine_process.launch import EngineProcess
from app.engines.engine_process.selection import EngineRequest, EngineSearch
from app.errors import EngineFailed, NoEngine
from bundle.bundle_errors import BadBundle
from bundle.reader import Bundle, open_bundle
from model.spec import SOFTMAX
from tests.app.engines import fakes
from tests.support.plans import put_plan
from tests.support.processes import workers


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fakes.Gpu:
    return fakes.in_workers(tmp_path, monkeypatch)


@pytest.fixture
def planned(bundle: Path, tmp_path: Path) -> Path:
    """A bundle with a plan."""
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    put_plan(copied)
    return copied


class Started:
    """What a search found; its process has ended."""

    def __init__(self, process: EngineProcess, refused: dict[str, str]) -> None:
        self.name = process.name
        self.precision = process.precision
        self.batch = process.batch
        self.image_seconds = process.image_seconds
        self.refused = refused


def started(bundle: Bundle, request: EngineRequest, seconds: float = 60, resolution: int = 224) -> Started:
    search = EngineSearch(bundle, resolution, request, seconds=seconds)
    try:
        return Started(search.find(), search.refused)
    finally:
        assert len(workers(os.getpid(), "engine")) <= 1  # those that were not taken have ended
        search.stop()


AUTO = EngineRequest("auto", "auto")


@pytest.mark.usefixtures("gpu")
def test_a_started_engine_has_its_name_precision_and_best_batch_size(planned: Path) -> None:
    found = started(open_bundle(planned), AUTO)
    assert (found.name, found.precision, found.batch, found.refused) == ("tensorrt", "fp16", 32, {})
    assert found.image_seconds > 0


@pytest.mark.usefixtures("gpu")
def test_a_resolution_has_its_own_plans(planned: Path) -> None:
    found = started(open_bundle(planned), AUTO, resolution=384)
    assert (found.name, found.batch) == ("onnxruntime-cuda", 16)
    assert found.refused == {
        "tensorrt": f"there is no plan for 384: python export/to_trt.py --variant crossvit_tiny --bundle {planned} "
        "--resolutions 384"
    }


@pytest.mark.parametrize(
    ("word", "seconds", "expected"), [("crashes", 60, "ended by SIGSEGV"), ("hangs", 5, "no answer within 5 s")]
)
def test_an_engine_that_ends_its_process_or_hangs_is_passed_over_where_any_will_do(
    planned: Path, gpu: fakes.Gpu, word: str, seconds: float, expected: str
) -> None:
    gpu.does(tensorrt=word)
    bundle = open_bundle(planned)
    found = started(bundle, AUTO, seconds=seconds)
    assert found.name == "onnxruntime"
    assert found.refused == {"tensorrt": f"its process failed while it was started: {expected}"}
    with pytest.raises(EngineFailed, match="the engine cannot start; the log says why"):
        started(bundle, EngineRequest("tensorrt", "auto"), seconds=seconds)


def test_an_engine_that_breaks_its_device_leaves_it_to_the_next_in_a_fresh_process(
    planned: Path, gpu: fakes.Gpu
) -> None:
    gpu.does(tensorrt="breaks", cuda="works")
    bundle = open_bundle(planned)
    found = started(bundle, AUTO)
    reason = "it cannot run this model: RuntimeError: cudaErrorIllegalAddress"
    assert (found.name, found.refused) == ("onnxruntime-cuda", {"tensorrt": reason})
    gpu.does(tensorrt="breaks", cuda="breaks")
    found = started(bundle, AUTO)
    assert (found.name, found.refused) == ("onnxruntime", {"tensorrt": reason, "onnxruntime-cuda": reason})
    with pytest.raises(NoEngine, match=f"engine=tensorrt, precision=auto .tensorrt: {reason}") as caught:
        started(bundle, EngineRequest("tensorrt", "auto"))
    assert type(caught.value) is NoEngine


def test_without_an_engine_that_can_start_the_error_has_the_reasons(planned: Path, gpu: fakes.Gpu) -> None:
    gpu.does(tensorrt="crashes")
    with pytest.raises(NoEngine, match=r"precision=fp16 \(tensorrt: its process failed .* SIGSEGV"):
        started(open_bundle(planned), EngineRequest("auto", "fp16"))


def test_an_overwritten_plan_is_refused(planned: Path, gpu: fakes.Gpu) -> None:
    gpu.does(tensorrt="reads")
    bundle = open_bundle(planned)
    assert started(bundle, AUTO).name == "tensorrt"
    (path,) = planned.glob("engines/*/plan")
    with path.open("r+b") as file:
        file.write(b"?")
    refused = "the plan for NVIDIA H100 80GB HBM3 is not the one that its manifest describes"
    found = started(bundle, AUTO)
    assert found.name == "onnxruntime"
    assert refused in found.refused["tensorrt"]


def test_a_half_graph_that_was_overwritten_is_not_believed(tmp_path: Path) -> None:
    """No engine here takes one, so the worker's side is asked itself."""
    graph = tmp_path / "model.fp16.onnx"
    graph.write_bytes(b"half")
    with graph.open("rb") as file:
        host = EngineHost(
            {"fp16": hashlib.sha256(b"half").hexdigest()}, [], "", 224, 2, SOFTMAX, 0.0, False, [file.fileno()]
        )
        read = host._files.graphs["fp16"]
        assert read() == read() == b"half"
        graph.write_bytes(b"HALF")
        with pytest.raises(BadBundle, match="was overwritten while it was served"):
            read()
