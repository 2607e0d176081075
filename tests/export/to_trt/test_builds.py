import json
from pathlib import Path

import onnx
import pytest

from bundle.atomic_files import file_sha256
from bundle.plans import open_plans
from export.plans.build_spec import Unable
from tests.export.to_trt.fake_builder import FOLDER, VIEWS, FakeGpu, run
from tests.support.folders import tree


def test_engines_are_built_proven_and_put_into_the_bundle(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copy)
    assert run(copy, "--batch-sizes", "8", "1", "8", "--resolutions", "384", "224", "--workspace", "2") == 0
    after = tree(copy)
    assert {name: content for name, content in after.items() if not name.startswith("engines")} == before
    assert sorted(path.name for path in (copy / "engines").iterdir()) == [FOLDER.format(224), FOLDER.format(384)]
    passport = json.loads((copy / "engines" / FOLDER.format(224) / "passport.json").read_text())
    proof = passport.pop("proof")
    assert len(proof) == 2
    for profile in proof:
        assert profile["images"] == VIEWS
        assert 0 < profile["worst"] < 0.1 < profile["scale"]  # fp16 is not float32
        assert 0 < profile["distance"] < 0.01
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
    assert "batch 8: float32's best class for 100.0% of 3 views of 3 photographs; logits differ by" in out
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
    assert all(profile["worst"] < 1e-5 for profile in passport["proof"])
