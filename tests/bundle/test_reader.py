import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.bundle_errors import BadBundle
from bundle.class_labels import ClassLabel
from bundle.reader import open_bundle
from tests.support.agreements import GOOD
from tests.support.plans import put_plan


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


def test_an_exported_bundle_opens(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.name == bundle.name == "crossvit_tiny"
    assert opened.resolutions == [224, 384, 480]
    assert opened.warning is None
    assert opened.labels[281].label == "tabby"
    assert opened.hash.startswith("sha256:")


def test_no_bundle_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"no bundle at .*python export/to_onnx.py --variant"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "inspection.onnx", "labels.json", "golden.npz"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_file_that_the_manifest_does_not_describe_is_refused(copied: Path, name: str, damage: str) -> None:
    if damage == "missing":
        (copied / name).unlink()
    else:
        with (copied / name).open("r+b") as file:
            file.write(b"?")
    with pytest.raises(BadBundle, match=f"{name} is not the file that the manifest describes"):
        open_bundle(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "format is not 3"),
        ({"variant": "vit"}, "unknown variant 'vit'; one of crossvit_tiny"),
        ({"weights": {"id": "md5:1", "source": ""}}, r"weights\.id"),
        ({"classes": 999}, "does not name the model's 999 classes"),
        ({"default_resolution": 225}, "no preprocessing for the default resolution"),
        ({"preprocessing": {"224": {"resize": 0, "crop": 0}}}, "64 <= crop <= resize <= 4096"),
        ({"input": "pixels"}, "input is not 'image'"),
        ({"outputs": ["logits"]}, r"outputs\.1 is missing"),
        ({"preprocessing": {"224": {"resize": 256}}}, r"preprocessing\.224\.crop is missing"),
    ],
)
def test_values_of_the_manifest_are_checked(copied: Path, change: dict[str, Any], message: str) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BadBundle, match=message):
        open_bundle(copied)


def test_the_caution_in_the_manifest_is_a_warning(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["weights"]["caution"] = "for trying it out"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    opened = open_bundle(copied)
    opened.close()
    assert opened.warning == f"{copied.name}: for trying it out"


def test_a_manifest_without_mean_std_and_activation_means_imagenets_and_softmax(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    said = {key: manifest.pop(key) for key in ("mean", "std", "activation")}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    opened = open_bundle(copied)
    opened.close()
    assert opened.manifest.model_dump(include=set(said)) == {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "activation": "softmax",
    }


def test_softmax_scores_of_one_class_are_a_warning(bundle: Path) -> None:
    opened = open_bundle(bundle)
    opened.close()
    one = opened.manifest.model_copy(update={"classes": 1})
    warning = replace(opened, manifest=one).warning
    assert warning is not None
    assert "--activation sigmoid" in warning
    assert replace(opened, manifest=one.model_copy(update={"activation": "sigmoid"})).warning is None


def test_control_characters_of_labels_are_not_shown() -> None:
    label = ClassLabel(index=0, wnid=None, label="c\x1b[2Jat\n\u202e")
    assert label.label == "c\ufffd[2Jat\ufffd\ufffd"


def test_a_manifest_that_is_not_json_is_refused(copied: Path) -> None:
    (copied / "manifest.json").write_text("{")
    with pytest.raises(BadBundle, match="the file is not JSON"):
        open_bundle(copied)


def describe(bundle: Path, name: str) -> None:
    """Make the manifest say that `name` is what it is."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_golden_images_and_logits_are_those_of_each_resolution(bundle: Path) -> None:
    opened = open_bundle(bundle)
    for resolution in opened.resolutions:
        golden = opened.golden(resolution)
        assert golden.images.shape == (3, resolution, resolution, 3)
        assert golden.logits.shape == (3, 3, 1000)


@pytest.mark.parametrize("damage", ["no archive", "no logits", "other shape", "objects"])
def test_a_damaged_golden_file_is_refused(copied: Path, damage: str) -> None:
    with np.load(copied / "golden.npz") as arrays:
        golden = dict(arrays)
    match damage:
        case "no logits":
            del golden["logits_224"]
        case "other shape":
            golden["logits_224"] = golden["logits_224"][..., :10]
        case "objects":
            golden["logits_224"] = np.array([print], dtype=object)
    np.savez(copied / "golden.npz", **golden)
    if damage == "no archive":
        (copied / "golden.npz").write_bytes(b"PK")
    describe(copied, "golden.npz")
    with pytest.raises(BadBundle, match=r"golden\.npz: .*export the bundle again"):
        open_bundle(copied)


def test_the_graph_can_be_read_after_the_bundle_was_replaced(copied: Path) -> None:
    opened = open_bundle(copied)
    graph = (copied / "model.onnx").read_bytes()
    shutil.rmtree(copied)
    assert os.pread(opened.graphs["f32"], len(graph) + 1, 0) == graph
    opened.close()


def test_the_inspection_graph_can_be_read_after_the_bundle_was_replaced_and_is_closed_with_it(copied: Path) -> None:
    opened = open_bundle(copied)
    graph = (copied / "inspection.onnx").read_bytes()
    shutil.rmtree(copied)
    assert opened.inspection is not None
    assert os.pread(opened.inspection, len(graph) + 1, 0) == graph
    opened.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened.inspection)


def test_a_bundle_of_an_earlier_version_has_no_inspection_graph(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest["files"]["inspection.onnx"], manifest["inspection"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    (copied / "inspection.onnx").unlink()
    opened = open_bundle(copied)
    assert opened.inspection is None
    assert list(opened.graphs) == ["f32"]
    opened.close()


def test_graphs_in_half_precision_are_opened_if_the_manifest_names_them(copied: Path) -> None:
    for precision in ("fp16", "bf16"):
        (copied / f"model.{precision}.onnx").write_bytes(precision.encode())
    describe(copied, "model.fp16.onnx")
    opened = open_bundle(copied)
    assert list(opened.graphs) == ["f32", "fp16"]
    assert os.pread(opened.graphs["fp16"], 100, 0) == b"fp16"
    assert opened.graph_sha256("fp16") == hashlib.sha256(b"fp16").hexdigest()
    opened.close()


def test_an_8_bit_graph_comes_with_its_agreement(copied: Path) -> None:
    (copied / "model.int8.onnx").write_bytes(b"int8")
    describe(copied, "model.int8.onnx")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["agreement"] = {"int8": {"224": GOOD.model_dump()}}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    opened = open_bundle(copied)
    assert os.pread(opened.graphs["int8"], 100, 0) == b"int8"
    assert opened.manifest.agreement["int8"][224] == GOOD
    opened.close()


def test_a_manifest_without_agreement_has_an_empty_one(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest.pop("agreement", None)
    (copied / "manifest.json").write_text(json.dumps(manifest))
    opened = open_bundle(copied)
    assert opened.manifest.agreement == {}
    opened.close()


@pytest.mark.parametrize("wrong", [{"top1": 1.5}, {"images": 0}, {"worst": float("nan")}])
def test_an_impossible_agreement_is_refused(copied: Path, wrong: dict[str, float]) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["agreement"] = {"int8": {"224": GOOD.model_dump() | wrong}}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match=r"agreement\.int8"):
        open_bundle(copied)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_half_graph_that_the_manifest_does_not_describe_is_refused_and_no_file_stays_open(
    copied: Path, damage: str
) -> None:
    half = copied / "model.fp16.onnx"
    half.write_bytes(b"half")
    describe(copied, half.name)
    half.write_bytes(b"HALF")
    if damage == "missing":
        half.unlink()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(BadBundle, match=r"model\.fp16\.onnx is not the file that the manifest describes"):
        open_bundle(copied)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_bundle_opens_with_its_plans_whether_they_fit_or_not(copied: Path) -> None:
    put_plan(copied)
    put_plan(copied, "384-fp16-gpu-trt10", resolution=384, side=384, graph_sha256="0" * 64)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    opened = open_bundle(copied)
    assert [plan.manifest.batch_sizes for plan in opened.plans.fit[224]] == [(1, 8, 32)]
    assert opened.plans.unfit == {384: ["engines/384-fp16-gpu-trt10: it was built from another graph"]}
    command = f"python export/to_trt.py --variant crossvit_tiny --bundle {copied} --resolutions 384"
    assert opened.plan_command(384) == command
    assert opened.calibrate_command("--precision f32") == f"crossvit calibrate DATA --bundle {copied} --precision f32"
    opened.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_bundles_are_the_same_if_their_manifests_and_plans_are(copied: Path) -> None:
    bare = open_bundle(copied)
    where = put_plan(copied)
    planned, again = open_bundle(copied), open_bundle(copied)
    (where / "plan").write_bytes(b"")
    damaged = open_bundle(copied)
    assert planned.same_as(again)
    for one in (bare, damaged):
        assert not planned.same_as(one)
        assert not one.same_as(planned)
    for bundle in (bare, planned, again, damaged):
        bundle.close()


def test_a_folder_name_that_is_not_a_models_is_refused(copied: Path) -> None:
    with pytest.raises(BadBundle, match="the folder's name is the model's"):
        open_bundle(copied.rename(copied.with_name("a b")))
