import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from bundle.atomic_files import file_sha256
from bundle.plans import open_plans
from bundle.tensors import INPUT, OUTPUTS
from export import to_trt
from export.plans.build_spec import BuildSpec, BuiltPlan, Device, PlanBuilder, Progress, Unable
from export.plans.plan_source import PlanSource
from tests.export.plans.test_plan_folder import tree
from tests.support.reference_network import TINY

VIEWS = 3
DEVICE = Device("10.16.1.11", "NVIDIA H100 80GB HBM3", "9.0", "580.95.05", "13.0", 80 << 30)
FOLDER = "{}-fp16-nvidia-h100-80gb-hbm3-trt10.16.1.11"


@dataclass
class FakeGpu:
    """A fake: there is no GPU where these tests run. Its plans are the graphs, which ONNX Runtime runs on the CPU.

    `unfit` are sides at which it cannot build; `spoil` gets a batch size and the logits for it, to make them wrong.
    """

    unfit: dict[int, BaseException] = field(default_factory=dict)
    specs: list[BuildSpec] = field(default_factory=list)
    graphs: list[bytes] = field(default_factory=list)

    def device(self) -> Device:
        return DEVICE

    def build(self, graph: bytes, spec: BuildSpec, progress: Progress) -> BuiltPlan:
        self.specs.append(spec)
        self.graphs.append(graph)
        progress.start("Building", None, 2)
        assert progress.step("Building", 0)
        progress.finish("Building")
        if spec.side in self.unfit:
            raise self.unfit[spec.side]
        workspace = spec.workspace_bytes or DEVICE.memory_bytes
        return BuiltPlan(graph, workspace, b"timings %d" % len(self.specs), notes=("it was slow",))

    def run(self, plan: bytes, spec: BuildSpec, images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        answers = np.stack(session.run(list(OUTPUTS), {INPUT: images}))
        return [self.spoil(batch, answers.copy()) for batch in spec.batch_sizes]

    def spoil(self, batch: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ARG002
        return logits


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


@pytest.fixture(autouse=True)
def quick_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt, "PROOF_VIEWS", VIEWS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(PlanSource, "at", made_once)


_at, _made = PlanSource.at, dict[tuple[object, ...], onnx_ir.Model]()


def made_once(source: PlanSource, resolution: int, precision: str, attention: str) -> onnx_ir.Model:
    """What Source.at makes of the same graph is the same, and takes seconds."""
    key = (source.graph_sha256, resolution, precision, attention)
    if key not in _made:
        _made[key] = _at(source, resolution, precision, attention)
    return _made[key]


def run(bundle: Path, *options: str, gpu: PlanBuilder | None = None) -> int:
    found = gpu or FakeGpu()
    return to_trt.main(["--variant", TINY.name, "--bundle", str(bundle), *options], lambda: found)


def nothing_here() -> PlanBuilder:
    raise Unable("TensorRT is not installed: do this")


def test_engines_are_built_proven_and_put_into_the_bundle(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copy)
    assert run(copy, "--batch-sizes", "8", "1", "8", "--resolutions", "384", "224", "--workspace", "2") == 0
    after = tree(copy)
    assert {name: content for name, content in after.items() if not name.startswith("engines")} == before
    assert sorted(path.name for path in (copy / "engines").iterdir()) == [FOLDER.format(224), FOLDER.format(384)]
    passport = json.loads((copy / "engines" / FOLDER.format(224) / "passport.json").read_text())
    proof = passport.pop("proof")
    assert proof["images"] == VIEWS
    assert proof["top1_agreement"] == 1.0
    assert 0 < proof["worst_difference"] < 0.1 < proof["scale"]  # fp16 is not float32
    assert passport.pop("built").endswith("Z")
    assert passport.pop("build_seconds") >= 0
    plan = copy / "engines" / FOLDER.format(224) / "plan"
    assert passport == {
        "format": 1,
        "resolution": 224,
        "side": 224,
        "precision": "fp16",
        "batch_sizes": [1, 8],
        "least_sizes": [1, 8],
        "attention": "products",
        "graph_sha256": file_sha256(copy / "model.onnx"),
        "plan_sha256": file_sha256(plan),
        "plan_bytes": plan.stat().st_size,
        "tensorrt": "10.16.1.11",
        "version_compatible": False,
        "gpu": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "driver": "580.95.05",
        "cuda": "13.0",
        "optimization_level": 3,
        "workspace_bytes": 2 << 30,
    }
    out = capsys.readouterr().out
    assert "batch 8: the same class for 100.0% of 3 images; logits, of up to" in out
    assert "TensorRT: it was slow" in out


def test_an_engine_that_is_up_to_date_can_stay(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = FakeGpu()
    options = ["--resolutions", "224", "--if-changed"]
    assert run(copy, *options, gpu=gpu) == 0
    assert run(copy, *options, gpu=gpu) == 0
    assert "224: the engine is up to date" in capsys.readouterr().out
    assert len(gpu.specs) == 1
    assert run(copy, *options, "--batch-sizes", "1", gpu=gpu) == 0  # something else is asked for
    assert len(gpu.specs) == 2
    (copy / "engines" / FOLDER.format(224) / "plan").write_bytes(b"damaged")
    assert run(copy, *options, "--batch-sizes", "1", gpu=gpu) == 0
    assert len(gpu.specs) == 3


@pytest.mark.parametrize("what", ["file", "link", "stranger"])
def test_a_place_that_is_taken_is_found_before_anything_is_built(
    copy: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "file":
        (copy / "engines").write_text("something else")
    elif what == "link":
        (tmp_path / "elsewhere").mkdir()
        (copy / "engines").symlink_to(tmp_path / "elsewhere")
    else:
        (copy / "engines" / FOLDER.format(224)).mkdir(parents=True)
        (copy / "engines" / FOLDER.format(224) / "notes.txt").write_text("mine")
    gpu = FakeGpu()
    assert run(copy, "--resolutions", "224", gpu=gpu) == 1
    assert not gpu.specs
    assert "remove it" in capsys.readouterr().err


def test_profiles_can_join_for_servers_that_do_not_pad(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = FakeGpu()
    options = ["--resolutions", "224", "--batch-sizes", "1", "8", "32", "--joined-profiles"]
    assert run(copy, *options, gpu=gpu) == 0
    assert gpu.specs[0].least_sizes == (1, 2, 9)
    (plan,) = open_plans(copy, file_sha256(copy / "model.onnx"), {224: 224, 384: 384, 480: 480}).fit[224]
    assert plan.manifest.least_sizes == (1, 2, 9)
    assert run(copy, *options, "--dry-run") == 0
    assert "[1, 224, 224, 3], [2 to 8, 224, 224, 3], [9 to 32, 224, 224, 3]" in capsys.readouterr().out


def test_attention_can_be_onnxs_operator(copy: Path) -> None:
    gpu = FakeGpu()
    assert run(copy, "--resolutions", "224", "--attention", "operator", gpu=gpu) == 0
    assert run(copy, "--resolutions", "224", gpu=gpu) == 0
    kinds = [[node.op_type for node in onnx.load_from_string(graph).graph.node] for graph in gpu.graphs]
    assert [graph.count("Attention") for graph in kinds] == [15, 0]


def test_the_service_opens_the_engines(copy: Path) -> None:
    assert run(copy, "--resolutions", "224", "--version-compatible", "--optimization-level", "5") == 0
    plans = open_plans(copy, file_sha256(copy / "model.onnx"), {224: 224, 384: 384, 480: 480})
    assert not plans.unfit
    (plan,) = plans.fit[224]
    assert plan.manifest.batch_sizes == (1, 8, 32, 64)
    assert plan.manifest.version_compatible
    plans.close()


def test_the_graph_that_is_built_is_of_one_side_and_in_half_precision(copy: Path) -> None:
    gpu = FakeGpu(unfit={480: Unable("enough seen")})
    assert run(copy, "--resolutions", "480", "--precision", "bf16", gpu=gpu) == 1
    model = onnx.load_from_string(gpu.graphs[0])
    sides = [size.dim_param or size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", 480, 480, 3]
    assert onnx.TensorProto.BFLOAT16 in {weights.data_type for weights in model.graph.initializer}
    assert (gpu.specs[0].side, gpu.specs[0].batch_sizes) == (480, (1, 8, 32, 64))


def test_in_float32_the_logits_are_the_bundles(copy: Path) -> None:
    assert run(copy, "--resolutions", "224", "--precision", "fp32") == 0
    (engine,) = (copy / "engines").iterdir()
    assert engine.name.startswith("224-f32-")
    passport = json.loads((engine / "passport.json").read_text())
    assert passport["precision"] == "f32"
    assert passport["proof"]["worst_difference"] < 1e-5


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
        (OneWrongClass(), "at batch 8, agrees with float32 on the best class of 66.7% of 3 images (at least 99% must)"),
        (NotANumber(), "its logits are up to nan off"),
    ],
)
def test_an_engine_that_answers_otherwise_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str], gpu: FakeGpu, message: str
) -> None:
    before = tree(copy)
    assert run(copy, "--resolutions", "224", gpu=gpu) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "it is not put in place. Try --precision bf16 or fp32" in err
    assert tree(copy) == before


def test_of_untrained_weights_it_is_said_why_answers_differ(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["weights"]["id"] = "untrained"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run(copy, "--resolutions", "224", gpu=OneWrongClass()) == 1
    said = capsys.readouterr()
    assert "UNTRAINED weights" in said.out
    assert "the weights are untrained, and their classes hardly differ" in said.err


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


def test_without_tensorrt_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "export.plans.builder", raising=False)
    assert to_trt.main(["--variant", TINY.name, "--bundle", str(tmp_path / "b")]) == 1
    err = capsys.readouterr().err
    assert err == "error: TensorRT is not installed: pip install -e '.[export,gpu]' installs what engines need\n"
    assert list(tmp_path.iterdir()) == []


def test_where_no_bundle_is_one_is_exported_first(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "b"

    def export(argv: list[str]) -> int:
        assert argv == ["--variant", TINY.name, "--out", str(out)]
        shutil.copytree(bundle, out)
        return 0

    monkeypatch.setattr("export.to_onnx.main", export)
    assert run(out, "--resolutions", "224") == 0
    assert f"no bundle at {out}; making it first" in capsys.readouterr().out
    assert (out / "engines" / FOLDER.format(224) / "plan").exists()


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (130, 130)])
def test_an_export_that_fails_or_is_interrupted_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: int
) -> None:
    monkeypatch.setattr("export.to_onnx.main", lambda _: code)
    assert run(tmp_path / "b") == expected


def test_where_no_bundle_is_and_pytorch_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "export.to_onnx", raising=False)
    monkeypatch.delitem(sys.modules, "export.graphs.served_graph", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(tmp_path / "b") == 1
    assert "exporting one needs torch" in capsys.readouterr().err


def test_a_folder_that_is_not_a_bundle_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    assert run(tmp_path) == 1
    assert "is not a bundle; it is not touched" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_resolution_that_the_bundle_does_not_offer(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["preprocessing"]["480"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run(copy, "--resolutions", "480") == 1
    assert "does not offer 480, but 224, 384" in capsys.readouterr().err
    assert run(copy, "--resolutions", "224", "--images", str(copy)) == 1
    assert "no photographs" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copy.parent)
    gpu = FakeGpu()
    assert run(copy, "--dry-run", "--batch-sizes", "1", "16", gpu=gpu) == 0
    out = capsys.readouterr().out
    assert file_sha256(copy / "model.onnx") in out
    assert "384: images of side 384, branches of 408 and 384; fp16, " in out
    assert "profiles: [1, 384, 384, 3], [16, 384, 384, 3]" in out
    assert str(copy / "engines" / FOLDER.format(384)) in out
    assert "TensorRT 10.16.1.11" in out
    assert "NVIDIA H100 80GB HBM3 (9.0), driver 580.95.05" in out
    assert not gpu.specs
    assert tree(copy.parent) == before


def test_a_dry_run_needs_neither_gpu_nor_tensorrt_nor_a_bundle(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--variant", TINY.name, "--dry-run", "--bundle"]
    assert to_trt.main([*arguments, str(copy)], nothing_here) == 0
    out = capsys.readouterr().out
    assert "nothing can be built here: TensorRT is not installed: do this" in out
    assert "480: images of side 480" in out
    assert to_trt.main([*arguments, str(tmp_path / "nowhere")], nothing_here) == 0
    assert "export/to_onnx.py --variant crossvit_tiny would make it first" in capsys.readouterr().out
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-sizes", "0"], "'--batch-sizes': Input should be greater than or equal to 1"),
        (["--batch-sizes", "1", "many"], "'--batch-sizes': Input should be a valid integer"),
        (["--batch-sizes", "1", "2000"], "'--batch-sizes': Input should be less than or equal to 1024"),
        (["--workspace", "lots"], "'lots' is not a size, such as 4 (GiB), 4GiB or 512MiB"),
        (["--workspace", "0"], "'0' is not a size"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
        (["--resolutions", "300"], "invalid choice: 300"),
        (["--optimization-level", "6"], "'--optimization-level': Input should be less than or equal to 5"),
    ],
)
def test_invalid_arguments_are_refused(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert to_trt.main(["--variant", TINY.name, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("4", 4 << 30), ("0.5", 1 << 29), ("512MiB", 512 << 20), ("512m", 512 << 20), ("2 GB", 2 << 30)]
)
def test_the_workspace_is_in_gib_or_has_a_unit(copy: Path, text: str, size: int) -> None:
    gpu = FakeGpu(unfit={224: Unable("enough seen")})
    assert run(copy, "--resolutions", "224", "--workspace", text, gpu=gpu) == 1
    assert gpu.specs[0].workspace_bytes == size


def test_a_workspace_that_the_gpu_does_not_have(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copy, "--workspace", "81") == 1
    assert "--workspace is more than the 80.0 GiB of the NVIDIA H100 80GB HBM3" in capsys.readouterr().err


def test_help_and_a_dry_run_load_neither_pytorch_nor_tensorrt() -> None:
    script = (
        "import sys\n"
        "from export import to_trt\n"
        "sys.exit(' '.join({'torch', 'tensorrt', 'cuda'} & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.gpu
def test_tensorrt_builds_engines_that_agree_with_the_graph(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # all views, as users have it
    timings = copy.parent / "timings"
    options = ["--variant", TINY.name, "--bundle", str(copy), "--resolutions", "224", "--batch-sizes", "1", "4"]
    assert to_trt.main([*options, "--timing-cache", str(timings)]) == 0
    assert timings.stat().st_size > 0
    plans = open_plans(copy, file_sha256(copy / "model.onnx"), {224: 224, 384: 384, 480: 480})
    assert not plans.unfit
    (plan,) = plans.fit[224]
    plans.close()
    assert plan.manifest.batch_sizes == (1, 4)
    gpu = to_trt.tensorrt()
    assert plan.manifest.gpu == gpu.device().gpu
    (engine,) = (copy / "engines").iterdir()
    proof = json.loads((engine / "passport.json").read_text())["proof"]
    assert proof["images"] == to_trt.PROOF_VIEWS
    assert proof["top1_agreement"] >= 0.99
    golden = np.load(copy / "golden.npz")
    spec = BuildSpec(precision="fp16", side=224, batch_sizes=(1, 4))
    for answers in gpu.run((engine / "plan").read_bytes(), spec, golden["images_224"]):
        distance = np.linalg.norm(answers - golden["logits_224"]) / np.linalg.norm(golden["logits_224"])
        assert distance < 0.05
