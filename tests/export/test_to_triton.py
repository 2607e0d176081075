"""Repositories are written from a real bundle and read with Triton's own definition of config.pbtxt.

No TensorRT can run here, so plans are fakes: bytes with a passport, which the exporter only copies.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format

from export import to_triton
from tests.export.model_config import definition
from tests.support.reference_network import TINY

triton = definition()

NAME = f"{TINY.name}_224"
H100: dict[str, Any] = {"gpu": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}
L4: dict[str, Any] = {"gpu": "NVIDIA L4", "compute_capability": "8.9"}


def export(bundle: Path, out: Path, *options: str) -> int:
    return to_triton.main(["--variant", TINY.name, "--bundle", str(bundle), "--out", str(out), *options])


def config(model: Path) -> Any:
    """Triton's ModelConfig as `model` has it; a field that Triton does not know is an error."""
    return text_format.Parse((model / "config.pbtxt").read_text(), triton.ModelConfig())


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder`, and its sha256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change: the manifest is a copy, the other files are links."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "manifest.json").unlink()
    shutil.copy(bundle / "manifest.json", folder)
    return folder


def amend(bundle: Path, **changes: Any) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | changes))


def put(bundle: Path, name: str, content: bytes) -> None:
    """Put a file into the bundle, and its sha256 into the manifest."""
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).write_bytes(content)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    amend(bundle, files=files | {name: hashlib.sha256(content).hexdigest()})


def plan(bundle: Path, batch_sizes: tuple[int, ...] = (1, 8, 32, 64), **changes: Any) -> bytes:
    """A fake plan in the bundle, with a passport as docs/bundle.md has it; its bytes."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    passport: dict[str, Any] = {
        "format": 1,
        "resolution": 224,
        "side": 224,
        "precision": "fp16",
        "batch_sizes": batch_sizes,
        "graph_sha256": files["model.onnx"],
        "tensorrt": "10.16.1.11",
        "version_compatible": False,
        "driver": "580.95.05",
        "cuda": "13.0",
        **H100,
        **changes,
    }
    content = f"fake plan: {json.dumps(passport)}".encode()
    passport |= {"plan_sha256": hashlib.sha256(content).hexdigest(), "plan_bytes": len(content)} | changes
    gpu = passport["gpu"].lower().replace(" ", "-")
    name = f"{passport['resolution']}-{passport['precision']}-{gpu}-trt{passport['tensorrt']}"
    (bundle / "engines" / name).mkdir(parents=True)
    (bundle / "engines" / name / "plan").write_bytes(content)
    (bundle / "engines" / name / "passport.json").write_text(json.dumps(passport))
    return content


def test_there_is_one_model_for_each_resolution_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    assert export(bundle, tmp_path / "triton") == 0
    expected = {
        f"{TINY.name}_{resolution}/{name}"
        for resolution in (224, 384, 480)
        for name in ("config.pbtxt", "labels.txt", "1/model.onnx")
    }
    assert set(contents(tmp_path / "triton")) == expected
    assert list(tmp_path.iterdir()) == [tmp_path / "triton"]
    assert (tmp_path / "triton" / NAME / "1" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_what_triton_is_told_of_a_graph(bundle: Path, tmp_path: Path) -> None:
    assert export(bundle, tmp_path / "triton", "--resolutions", "384") == 0
    weights = json.loads((bundle / "manifest.json").read_text())["weights"]["id"]
    image = triton.ModelWarmup.Input(data_type=triton.TYPE_UINT8, dims=[384, 384, 3], random_data=True)
    assert config(tmp_path / "triton" / f"{TINY.name}_384") == triton.ModelConfig(
        name=f"{TINY.name}_384",
        backend="onnxruntime",
        max_batch_size=64,
        version_policy=triton.ModelVersionPolicy(latest=triton.ModelVersionPolicy.Latest(num_versions=1)),
        input=[triton.ModelInput(name="image", data_type=triton.TYPE_UINT8, dims=[384, 384, 3])],
        output=[
            triton.ModelOutput(name="logits", data_type=triton.TYPE_FP32, dims=[1000], label_filename="labels.txt"),
            triton.ModelOutput(name="logits_small", data_type=triton.TYPE_FP32, dims=[1000]),
            triton.ModelOutput(name="logits_large", data_type=triton.TYPE_FP32, dims=[1000]),
        ],
        instance_group=[triton.ModelInstanceGroup(kind=triton.ModelInstanceGroup.KIND_GPU, count=1)],
        dynamic_batching=triton.ModelDynamicBatching(
            default_queue_policy=triton.ModelQueuePolicy(
                max_queue_size=512, default_timeout_microseconds=10_000_000, allow_timeout_override=True
            )
        ),
        model_warmup=[
            triton.ModelWarmup(name=f"{size} at once", batch_size=size, count=3, inputs={"image": image})
            for size in (1, 8, 32, 64)
        ],
        parameters={
            "weights": triton.ModelParameter(string_value=weights),
            "precision": triton.ModelParameter(string_value="fp32"),
            "resize": triton.ModelParameter(string_value="384"),
            "crop": triton.ModelParameter(string_value="384"),
            "activation": triton.ModelParameter(string_value="softmax"),
        },
    )


def test_options_reach_the_configuration(bundle: Path, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--instances", "3", "--max-batch", "24", "--queue-delay-us", "700"]
    assert export(bundle, tmp_path / "triton", *options) == 0
    written = config(tmp_path / "triton" / NAME)
    assert list(written.instance_group) == [triton.ModelInstanceGroup(kind=triton.ModelInstanceGroup.KIND_CPU, count=3)]
    assert written.max_batch_size == 24
    assert [warm.batch_size for warm in written.model_warmup] == [1, 8, 24]
    assert written.dynamic_batching.max_queue_delay_microseconds == 700
    assert written.dynamic_batching.default_queue_policy.max_queue_size == 192


def test_a_cpu_gets_small_batches(bundle: Path, tmp_path: Path) -> None:
    assert export(bundle, tmp_path / "triton", "--device", "cpu") == 0
    written = config(tmp_path / "triton" / NAME)
    assert written.max_batch_size == 8
    assert [(warm.batch_size, warm.count) for warm in written.model_warmup] == [(1, 1), (8, 1)]


@pytest.mark.parametrize("resolution", [224, 384, 480])
def test_the_model_gives_the_golden_logits_at_the_dimensions_that_triton_is_told(
    bundle: Path, tmp_path: Path, resolution: int
) -> None:
    """And these pass Triton's checks: input dimensions may be narrower than the graph's, output dimensions may not."""
    assert export(bundle, tmp_path / "triton", "--resolutions", str(resolution)) == 0
    model = tmp_path / "triton" / f"{TINY.name}_{resolution}"
    told = config(model)
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type) == (told.input[0].name, "tensor(uint8)")
    assert isinstance(taken.shape[0], str)
    assert len(taken.shape) == 1 + len(told.input[0].dims)
    assert all(isinstance(a, str) or a == b for a, b in zip(taken.shape[1:], told.input[0].dims, strict=True))
    assert [(given.name, given.type, given.shape[1:]) for given in session.get_outputs()] == [
        (output.name, "tensor(float)", list(output.dims)) for output in told.output
    ]
    assert all(isinstance(given.shape[0], str) for given in session.get_outputs())
    golden = np.load(bundle / "golden.npz")
    images, logits = golden[f"images_{resolution}"], golden[f"logits_{resolution}"]
    assert images.shape[1:] == tuple(told.input[0].dims)
    answers = session.run([output.name for output in told.output], {told.input[0].name: images})
    np.testing.assert_allclose(np.stack(answers), logits, rtol=0, atol=1e-4)


def test_another_crop_makes_another_side(own: Path, tmp_path: Path) -> None:
    amend(own, preprocessing={"224": {"resize": 274, "crop": 240}})
    assert export(own, tmp_path / "triton") == 0
    written = config(tmp_path / "triton" / NAME)
    assert list(written.input[0].dims) == [240, 240, 3]
    assert [list(warm.inputs["image"].dims) for warm in written.model_warmup] == [[240, 240, 3]] * 4
    assert written.parameters["resize"].string_value == "274"


def test_labels_are_lines_in_index_order(bundle: Path, tmp_path: Path) -> None:
    assert export(bundle, tmp_path / "triton") == 0
    labels = [entry["label"] for entry in json.loads((bundle / "labels.json").read_text())]
    assert (tmp_path / "triton" / NAME / "labels.txt").read_text().split("\n") == [*labels, ""]


def test_a_line_break_in_a_label_does_not_shift_those_behind_it(own: Path, tmp_path: Path) -> None:
    labels = json.loads((own / "labels.json").read_text())
    labels[1]["label"] = "gold\nfish\r\n"
    put(own, "labels.json", json.dumps(labels).encode())
    assert export(own, tmp_path / "triton") == 0
    lines = (tmp_path / "triton" / NAME / "labels.txt").read_bytes().split(b"\n")
    assert lines[:3] == [b"tench", b"gold fish", b"great white shark"]
    assert len(lines) == 1001


def test_a_half_graph_is_served_under_the_usual_name(own: Path, tmp_path: Path) -> None:
    put(own, "model.fp16.onnx", b"stands for a graph in half precision")
    assert export(own, tmp_path / "triton", "--precision", "fp16") == 0
    version = tmp_path / "triton" / NAME / "1"
    assert contents(version).keys() == {"model.onnx"}
    assert (version / "model.onnx").read_bytes() == b"stands for a graph in half precision"
    assert config(version.parent).parameters["precision"].string_value == "fp16"


def test_untrained_weights_are_a_warning(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    amend(own, weights={"id": "untrained", "source": "random", "resolution": 224})
    assert export(own, tmp_path / "triton") == 0
    assert "WARNING: UNTRAINED" in capsys.readouterr().out
    assert config(tmp_path / "triton" / NAME).parameters["weights"].string_value == "untrained"


def test_the_same_model_keeps_its_version_and_gets_the_new_configuration(own: Path, tmp_path: Path) -> None:
    assert export(own, tmp_path / "triton") == 0
    assert export(own, tmp_path / "triton", "--instances", "2") == 0
    model = tmp_path / "triton" / NAME
    assert sorted(path.name for path in model.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
    assert config(model).instance_group[0].count == 2


def test_another_model_becomes_the_next_version_beside_the_older_ones(own: Path, tmp_path: Path) -> None:
    model = tmp_path / "triton" / NAME
    assert export(own, tmp_path / "triton", "--resolutions", "224") == 0
    first = contents(model / "1")
    put(own, "model.onnx", b"stands for a newer graph")
    assert export(own, tmp_path / "triton", "--resolutions", "224") == 0
    second = contents(model / "2")
    assert export(own, tmp_path / "triton", "--resolutions", "224", "--model-version", "next") == 0
    assert contents(model / "1") == first
    assert contents(model / "2") == second == contents(model / "3") != first


def test_a_version_can_be_numbered_and_skips_what_is_no_version(own: Path, tmp_path: Path) -> None:
    model = tmp_path / "triton" / NAME
    assert export(own, tmp_path / "triton", "--resolutions", "224", "--model-version", "7") == 0
    (model / "009").mkdir()
    (model / "warmup").mkdir()
    assert export(own, tmp_path / "triton", "--resolutions", "224", "--model-version", "next") == 0
    assert sorted(path.name for path in model.iterdir() if path.is_dir()) == ["009", "7", "8", "warmup"]


@pytest.mark.parametrize("number", ["2", "1"])
def test_a_version_that_is_there_or_would_not_be_served_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    options = ["--resolutions", "224", "--model-version"]
    assert export(own, tmp_path / "triton", *options, "2") == 0
    before = contents(tmp_path / "triton")
    assert export(own, tmp_path / "triton", *options, number) == 1
    assert "has a version 2" in capsys.readouterr().err
    assert contents(tmp_path / "triton") == before


def test_what_someone_put_into_a_model_folder_stays(bundle: Path, tmp_path: Path) -> None:
    model = tmp_path / "triton" / NAME
    assert export(bundle, tmp_path / "triton") == 0
    (model / "configs").mkdir()
    (model / "configs" / "small.pbtxt").write_text("max_batch_size: 1")
    assert export(bundle, tmp_path / "triton", "--instances", "2") == 0
    assert (model / "configs" / "small.pbtxt").read_text() == "max_batch_size: 1"
    assert config(model).instance_group[0].count == 2


def test_other_models_of_the_repository_are_left_alone(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "triton" / "other" / "1"
    other.mkdir(parents=True)
    (other / "model.plan").write_text("theirs")
    (other.parent / "config.pbtxt").write_text('name: "other"')
    before = contents(other.parent)
    assert export(bundle, tmp_path / "triton") == 0
    assert contents(other.parent) == before
    assert (tmp_path / "triton" / NAME).is_dir()


def test_a_model_of_someone_else_with_the_same_name_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "triton" / f"{TINY.name}_384").mkdir(parents=True)
    (tmp_path / "triton" / f"{TINY.name}_384" / "config.pbtxt").write_text('name: "theirs"')
    assert export(bundle, tmp_path / "triton") == 1
    assert "was not written by this command; it is not touched" in capsys.readouterr().err
    assert set(contents(tmp_path / "triton")) == {f"{TINY.name}_384/config.pbtxt"}
    assert list(tmp_path.iterdir()) == [tmp_path / "triton"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "is a file"),
        ("bundle", "is a bundle, not a model repository"),
        ("artifacts", "is not a model, and Triton tries to load every folder"),
        ("/proc", "is the root of a file system"),
    ],
)
def test_a_place_that_cannot_be_a_repository_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "artifacts" / TINY.name).mkdir(parents=True)
    for path in (tmp_path / "bundle", tmp_path / "artifacts" / TINY.name):
        path.mkdir(exist_ok=True)
        shutil.copy(bundle / "manifest.json", path)
    before = contents(tmp_path)
    assert export(bundle, tmp_path / place) == 1
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_two_runs_at_once_do_not_lose_each_others_versions(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "triton").mkdir()
    lock = os.open(tmp_path / "triton", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert export(bundle, tmp_path / "triton") == 1
    finally:
        os.close(lock)
    assert "another run is writing" in capsys.readouterr().err
    assert export(bundle, tmp_path / "triton") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--bundle", "/nowhere"],
            "/nowhere is not a bundle: manifest.json is missing or broken; export it again",
        ),
        (["--variant", "crossvit_9"], f"is of {TINY.name}, not crossvit_9; choose another --bundle or --variant"),
        (["--precision", "fp16"], "has no fp16 graph: export it first with python export/to_onnx.py --variant"),
        (["--backend", "tensorrt"], "has no fp16 plan of its graph for 224: build it with python export/to_trt.py"),
        (["--resolutions", "384"], "offers 224 and not 384: export it again with python export/to_onnx.py"),
    ],
)
def test_errors_are_a_sentence_and_leave_nothing(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    amend(own, preprocessing={"224": {"resize": 256, "crop": 224}})
    assert export(own, tmp_path / "out" / "triton", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "has format 1, not 3"),
        ({"weights": None}, "manifest.json: weights is not an object; export it again"),
        ({"preprocessing": {"224": {}}}, "manifest.json: preprocessing.224.resize is missing; export it again"),
        ({"files": {}}, "files lacks golden.npz, labels.json, model.onnx; export it again: python export/to_onnx.py"),
    ],
)
def test_a_damaged_manifest_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    amend(own, **change)
    assert export(own, tmp_path / "triton") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize("name", ["model.onnx", "labels.json"])
def test_a_file_that_is_not_what_the_manifest_says_is_not_served(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content = (own / name).read_bytes()
    (own / name).unlink()
    (own / name).write_bytes(content[:-1] + b" ")
    assert export(own, tmp_path / "triton") == 1
    assert f"{name} is not the file that" in capsys.readouterr().err
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resolutions", "225"], "invalid choice: 225"),
        (["--max-batch", "0"], "'--max-batch': it must be greater than or equal to 1"),
        (["--model-version", "latest"], "'latest' is not a number of 1 or more"),
        (["--backend", "tensorrt", "--device", "cpu"], "--backend tensorrt needs --device gpu"),
    ],
)
def test_invalid_arguments_are_refused(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert to_triton.main(["--variant", TINY.name, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_brings_its_profiles_and_cuda_graphs(own: Path, tmp_path: Path) -> None:
    content = plan(own, batch_sizes=(1, 2, 3, 4))
    assert export(own, tmp_path / "triton", "--backend", "tensorrt", "--resolutions", "224") == 0
    model = tmp_path / "triton" / NAME
    assert set(contents(model)) == {"config.pbtxt", "labels.txt", "1/model.plan"}
    assert (model / "1" / "model.plan").read_bytes() == content
    written = config(model)
    assert (written.backend, written.max_batch_size) == ("tensorrt", 4)
    assert not written.cc_model_filenames
    assert list(written.instance_group) == [
        triton.ModelInstanceGroup(kind=triton.ModelInstanceGroup.KIND_GPU, count=1, profile=["0", "1", "2", "3"])
    ]
    shape = triton.ModelOptimizationPolicy.Cuda.GraphSpec.Shape(dim=[224, 224, 3])
    assert written.optimization == triton.ModelOptimizationPolicy(
        cuda=triton.ModelOptimizationPolicy.Cuda(
            graphs=True,
            graph_spec=[
                triton.ModelOptimizationPolicy.Cuda.GraphSpec(batch_size=size, input={"image": shape})
                for size in (1, 2, 3, 4)
            ],
        )
    )
    assert [warm.batch_size for warm in written.model_warmup] == [1, 2, 3, 4]
    assert list(written.dynamic_batching.preferred_batch_size) == [2, 3, 4]
    assert written.parameters["tensorrt"].string_value == "10.16.1.11"
    assert written.parameters["gpu"].string_value == H100["gpu"]


def test_joined_profiles_take_every_batch_up_to_the_largest(own: Path, tmp_path: Path) -> None:
    plan(own, batch_sizes=(1, 8, 32), least_sizes=(1, 2, 9))
    assert export(own, tmp_path / "triton", "--backend", "tensorrt", "--resolutions", "224") == 0
    written = config(tmp_path / "triton" / NAME)
    assert list(written.dynamic_batching.preferred_batch_size) == [8, 32]
    graphs = written.optimization.cuda.graph_spec
    assert [(spec.graph_lower_bound.batch_size, spec.batch_size) for spec in graphs] == [(0, 1), (2, 8), (9, 32)]
    assert list(graphs[2].graph_lower_bound.input["image"].dim) == [224, 224, 3]


@pytest.mark.parametrize("content", ["[]", "{", "{}"])
def test_an_invalid_plan_manifest_is_named(
    own: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(own)
    (own / "engines" / "odd").mkdir()
    (own / "engines" / "odd" / "passport.json").write_text(content)
    assert export(own, tmp_path / "triton", "--backend", "tensorrt", "--resolutions", "224") == 1
    assert "engines/odd/passport.json is not a plan manifest (" in capsys.readouterr().err


def test_triton_must_not_batch_for_profiles_with_gaps(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(own, batch_sizes=(1, 8, 32, 64))
    assert export(own, tmp_path / "triton", "--backend", "tensorrt", "--resolutions", "224") == 0
    written = config(tmp_path / "triton" / NAME)
    assert written.max_batch_size == 64
    assert not written.HasField("dynamic_batching")
    assert [spec.batch_size for spec in written.optimization.cuda.graph_spec] == [1, 8, 32, 64]
    assert "takes requests of exactly 1 or 8 or 32 or 64 images" in capsys.readouterr().out


def test_profiles_over_the_largest_batch_are_left_out(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(own, batch_sizes=(1, 8, 32, 64))
    options = ["--backend", "tensorrt", "--resolutions", "224", "--max-batch"]
    assert export(own, tmp_path / "triton", *options, "8") == 0
    written = config(tmp_path / "triton" / NAME)
    assert written.max_batch_size == 8
    assert list(written.instance_group[0].profile) == ["0", "1"]
    assert [warm.batch_size for warm in written.model_warmup] == [1, 8]
    assert export(own, tmp_path / "triton", *options, "16") == 1
    assert "--max-batch 16 is not one of the batch sizes 1, 8, 32, 64" in capsys.readouterr().err


def test_plans_for_several_gpus_are_told_apart_by_compute_capability(own: Path, tmp_path: Path) -> None:
    hopper, ada = plan(own), plan(own, **L4)
    assert export(own, tmp_path / "triton", "--backend", "tensorrt", "--resolutions", "224") == 0
    model = tmp_path / "triton" / NAME
    names = dict(config(model).cc_model_filenames)
    assert names.keys() == {"9.0", "8.9"}
    assert (model / "1" / names["9.0"]).read_bytes() == hopper
    assert (model / "1" / names["8.9"]).read_bytes() == ada


@pytest.mark.parametrize(
    "other",
    [{"gpu": "NVIDIA H200"}, {"tensorrt": "10.13.3.9", **L4}, {"batch_sizes": (1, 16), **L4}],
    ids=["same capability", "other TensorRT", "other batch sizes"],
)
def test_plans_that_cannot_be_in_one_model_have_to_be_chosen_from(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    content = plan(own)
    plan(own, **other)
    options = ["--backend", "tensorrt", "--resolutions", "224"]
    assert export(own, tmp_path / "triton", *options) == 1
    assert "choose with --only TEXT among 224-fp16-nvidia-" in capsys.readouterr().err
    assert export(own, tmp_path / "triton", *options, "--only", "h100", "trt10.16") == 0
    assert (tmp_path / "triton" / NAME / "1" / "model.plan").read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"graph_sha256": "0" * 64},
        {"resolution": 384},
        {"side": 240},
        {"precision": "bf16"},
        {"format": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_plan_of_something_else_is_not_served(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    plan(own, **change)
    assert export(own, tmp_path / "triton", "--backend", "tensorrt", "--resolutions", "224") == 1
    assert "build it with python export/to_trt.py" in capsys.readouterr().err


def test_a_plan_that_is_not_what_its_passport_says_is_not_served(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(own, plan_sha256="0" * 64)
    assert export(own, tmp_path / "triton", "--backend", "tensorrt", "--resolutions", "224") == 1
    assert "plan is not the file that was recorded" in capsys.readouterr().err
    assert not (tmp_path / "triton").exists()


def test_a_full_disk_leaves_the_repository_as_it_was(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(own, tmp_path / "triton") == 0
    before = contents(tmp_path / "triton")
    copyfile = shutil.copyfile

    def fills_up(source: Path, target: Path, **options: Any) -> None:
        copyfile(source, target, **options)
        if Path(target).match(f"{TINY.name}_384/2/model.onnx"):
            raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", fills_up)
    assert export(own, tmp_path / "triton", "--model-version", "next") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert contents(tmp_path / "triton") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "triton"]


KILLED = """
import os, signal, sys
from export import to_triton
from export.triton_repository import model_repository
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
KILL = kill
to_triton.main(sys.argv[1:])
"""


@pytest.mark.parametrize("moment", ["to_triton._copy", "model_repository.install_folder"])
def test_a_killed_run_leaves_nothing_half_and_the_next_one_clears_up(own: Path, tmp_path: Path, moment: str) -> None:
    assert export(own, tmp_path / "triton") == 0
    before = contents(tmp_path / "triton")
    script = KILLED.replace("KILL =", f"{moment} =")
    options = ["--variant", TINY.name, "--bundle", str(own), "--out", str(tmp_path / "triton")]
    command = [sys.executable, "-c", script, *options, "--model-version", "next"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert contents(tmp_path / "triton") == before
    assert len(list(tmp_path.glob(".triton.partial-*"))) == 1
    assert export(own, tmp_path / "triton") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "triton"]


def test_someone_who_polls_sees_whole_models_only(own: Path, tmp_path: Path) -> None:
    """What Triton does under --model-control-mode=poll: every folder is a model, its newest version is served."""
    put(own, "model.onnx", b"stands for a graph")
    repository, ended = tmp_path / "triton", threading.Event()
    assert export(own, repository, "--model-version", "next") == 0
    seen: set[int] = set()
    wrong: list[str] = []

    def poll() -> None:
        while not ended.is_set():
            if {path.name for path in repository.iterdir()} != {f"{TINY.name}_{side}" for side in (224, 384, 480)}:
                wrong.append("other models")
            before = (repository / NAME).stat()
            names = {path.name for path in (repository / NAME).iterdir()}
            if not os.path.samestat(before, (repository / NAME).stat()):
                continue  # replaced while it was read
            if not {"config.pbtxt", "labels.txt"} <= names:
                wrong.append(f"a model of {names}")
            seen.add(newest := max(int(name) for name in names if name.isdigit()))
            if (repository / NAME / str(newest) / "model.onnx").read_bytes() != b"stands for a graph":
                wrong.append(f"half of version {newest}")

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        for _ in range(20):
            assert export(own, repository, "--model-version", "next") == 0
    finally:
        ended.set()
        thread.join()
    assert wrong == []
    assert len(seen) > 3
