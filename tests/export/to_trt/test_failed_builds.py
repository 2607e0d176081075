import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.atomic_files import file_sha256
from export.plans.build_spec import BuildSpec, BuiltPlan, Progress, Unable
from tests.export.to_trt.fake_builder import FOLDER, FakeGpu, run
from tests.support.folders import tree


class OneWrongClass(FakeGpu):
    """At batch 8, the second image's best class is another."""

    def spoil(self, batch: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if batch == 8:
            logits[0, 1] = np.roll(logits[0, 1], 1)
        return logits


class NotANumber(FakeGpu):
    def spoil(self, batch: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if batch == 8:
            logits[2, 0, 7] = np.nan
        return logits


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (OneWrongClass(), "at batch 8 its logits differ from float32's by"),
        (NotANumber(), "at batch 8 its logits are NaN or infinite"),
    ],
)
def test_an_engine_that_answers_otherwise_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str], gpu: FakeGpu, message: str
) -> None:
    before = tree(copy)
    assert run(copy, "--resolutions", "224", gpu=gpu) == 1
    err = capsys.readouterr().err
    assert f"error: the engine for 224 in fp16 is not put in place: {message}" in err
    assert "Try --precision bf16 or fp32, or --least-agreement" in err
    assert tree(copy) == before


def test_the_share_of_best_classes_that_is_enough_can_be_given(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--resolutions", "224", "--least-agreement"]
    assert run(copy, *options, "0.67", gpu=OneWrongClass()) == 1
    said = capsys.readouterr()
    fault = "it has float32's best class for 66.7% over 3 views of 3 photographs, and at least 67.0% are asked for"
    assert f"at batch 8 {fault}" in said.err
    assert f"NOT TAKEN BY ITSELF: {fault}" in said.out
    assert run(copy, *options, "0.66", gpu=OneWrongClass()) == 0
    assert "NOT TAKEN" not in capsys.readouterr().out
    assert (copy / "engines" / FOLDER.format(224) / "plan").exists()


def test_a_refused_engine_leaves_the_existing_one(copy: Path) -> None:
    assert run(copy, "--resolutions", "224") == 0
    before = tree(copy)
    assert run(copy, "--resolutions", "224", gpu=OneWrongClass()) == 1
    assert tree(copy) == before


def test_errors_of_tensorrt_are_shown_whole(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copy)
    said = "TensorRT cannot take the graph:\n  Resize 'a' (node 1): no\n  Resize 'b' (node 2): no"
    assert run(copy, gpu=FakeGpu(unfit={224: Unable(said)})) == 1
    assert capsys.readouterr().err == f"error: {said}\n"
    assert tree(copy) == before


def test_of_several_resolutions_those_before_the_failure_stay(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copy, gpu=FakeGpu(unfit={480: Unable("the GPU's memory does not suffice")})) == 1
    err = capsys.readouterr().err
    assert err == "the engines for 224 and 384 are in place, and stay\nerror: the GPU's memory does not suffice\n"
    assert sorted(path.name for path in (copy / "engines").iterdir()) == [FOLDER.format(224), FOLDER.format(384)]


def test_ctrl_c_ends_the_build_and_leaves_the_bundle(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(FakeGpu):
        def build(self, graph: bytes, spec: BuildSpec, progress: Progress) -> BuiltPlan:  # noqa: ARG002
            progress.start("Building", None, 1000)
            os.kill(os.getpid(), signal.SIGINT)
            while progress.step("Building", 0):
                pass
            raise Unable("TensorRT built no engine")  # as it says of a build that was stopped

    before = tree(copy)
    assert run(copy, gpu=Interrupted()) == 130
    assert "interrupted; " in capsys.readouterr().err
    assert tree(copy) == before


def test_a_disk_that_fills_up(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copy)

    def full(path: Path, _: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(copy, "--resolutions", "224") == 1
    monkeypatch.undo()
    assert f"No space left on device; make room at {copy}, and start again" in capsys.readouterr().err
    assert tree(copy) == before


def test_a_disk_that_is_too_full_is_seen_before_minutes_are_spent(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(copy)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    gpu = FakeGpu()
    assert run(copy, gpu=gpu) == 1
    assert "GiB are free at" in capsys.readouterr().err
    assert not gpu.specs


def test_a_bundle_that_cannot_be_written_to_is_seen_before_minutes_are_spent(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    gpu = FakeGpu()
    assert run(copy, gpu=gpu) == 1
    assert f"{copy} cannot be written to" in capsys.readouterr().err
    assert not gpu.specs


def test_a_bundle_that_is_replaced_during_the_build_gets_no_engine(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(FakeGpu):
        def build(self, graph: bytes, spec: BuildSpec, progress: Progress) -> BuiltPlan:
            with (copy / "model.onnx").open("ab") as file:
                file.write(b"\0")
            manifest = json.loads((copy / "manifest.json").read_text())
            manifest["files"]["model.onnx"] = file_sha256(copy / "model.onnx")
            (copy / "manifest.json").write_text(json.dumps(manifest))
            return super().build(graph, spec, progress)

    assert run(copy, "--resolutions", "224", gpu=Slow()) == 1
    assert "has been replaced meanwhile" in capsys.readouterr().err
    assert not (copy / "engines").exists()


def test_what_tensorrt_measured_is_kept_from_build_to_build(copy: Path, tmp_path: Path) -> None:
    gpu = FakeGpu()
    for precision in ("fp16", "fp32"):
        assert run(copy, "--resolutions", "224", "--precision", precision, gpu=gpu) == 0
    assert [spec.timing_cache for spec in gpu.specs] == [b"", b"timings 1"]
    kept = tmp_path / "cache" / "crossvit" / "timings-nvidia-h100-80gb-hbm3-trt10.16.1.11"
    assert kept.read_bytes() == b"timings 2"
    other = tmp_path / "mine"
    assert run(copy, "--resolutions", "224", "--timing-cache", str(other)) == 0
    assert other.read_bytes() == b"timings 1"


def test_a_timing_cache_that_cannot_be_kept_does_not_stop_the_build(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert run(copy, "--resolutions", "224", "--timing-cache", str(tmp_path / "folder")) == 0
    out = capsys.readouterr().out
    assert "cannot be read (Is a directory); building without it" in out
    assert "cannot be written" in out
