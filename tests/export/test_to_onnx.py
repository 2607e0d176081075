import json
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from bundle.atomic_files import file_sha256
from bundle.bundle_errors import NotABundle
from bundle.reader import open_bundle
from bundle.scores import best_classes
from bundle.tensors import OUTPUTS
from export import to_onnx
from export.graphs.served_network import Served
from export.inputs.export_request import ExportOptions
from export.making import bundle_maker, pytorch_source
from export.making.pytorch_source import PyTorchSource
from export.measurement.comparison import Disagreement
from export.measurement.golden_images import golden_answers
from export.measurement.pytorch_parity import pytorch_answers, worst_differences
from model.checkpoint import BadCheckpoint
from model.crossvit import CrossViT
from model.hub_errors import HubUnavailable
from model.spec import PREPROCESSING, VARIANTS, Preprocessing
from tests.support import reference_network
from tests.support.reference_network import TINY

GOLDEN = np.load(reference_network.GOLDEN / f"{TINY.name}.npz")


def test_the_graph_is_valid_and_its_batch_and_side_are_symbolic(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": ["batch", "side", "side", 3]} | {name: ["batch", 1000] for name in OUTPUTS}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert not [node.op_type for node in model.graph.node if node.op_type in ("Resize", "If", "Loop")]


@pytest.mark.parametrize("side", reference_network.SIDES)
def test_onnx_runtime_gives_the_reference_logits(bundle: Path, side: int) -> None:
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        outputs = session.run(list(OUTPUTS), {"image": reference_network.images(side)[:batch]})
        for actual, key in zip(outputs, ("logits", "small", "large"), strict=True):
            np.testing.assert_allclose(actual, GOLDEN[f"{key}_{side}"][:batch], atol=1e-5, rtol=0)


def test_the_manifest_says_what_the_bundle_is(bundle: Path, tiny_weights: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["variant"] == "crossvit_tiny"
    assert manifest["weights"]["id"] == f"sha256:{file_sha256(tiny_weights)}"
    assert manifest["weights"]["source"] == tiny_weights.name
    assert manifest["default_resolution"] == 224
    assert manifest["preprocessing"]["224"] == {"resize": 256, "crop": 224}
    assert manifest["preprocessing"]["480"] == {"resize": 480, "crop": 480}
    assert set(manifest["parity"]["worst"]) == {"224", "384", "480"}
    assert 0 < max(manifest["parity"]["worst"].values()) < 1e-5
    assert 0 < manifest["inspection"]["worst"]["224"] < 1e-5
    assert manifest["built_with"]["torch"] == version("torch")  # without the build, which torch.__version__ may add
    assert (manifest["mean"], manifest["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert manifest["activation"] == "softmax"
    assert manifest["weights"]["sides"] == [240, 224]


def export(out: Path, *options: str) -> int:
    return to_onnx.main(["--variant", TINY.name, "--out", str(out), *options])


def test_a_graph_that_disagrees_with_pytorch_leaves_no_bundle(
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def subtly_wrong(served: Served) -> object:
        moved = served.network.get_parameter("norm.1.bias") + 1e-3  # the graph keeps the old one
        served.network.norm[1].register_parameter("bias", torch.nn.Parameter(moved))
        return pytorch_answers(served)

    monkeypatch.setattr(pytorch_source, "pytorch_answers", subtly_wrong)
    assert export(tmp_path / "b", "--weights", str(tiny_weights), "--resolutions", "224") == 1
    assert "logits differ from PyTorch by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_logits_of_pytorch_that_are_nan_are_a_disagreement(bundle: Path) -> None:
    served = Served(CrossViT(TINY).eval())
    served.network.get_parameter("norm.1.bias").data[0] = torch.nan
    with pytest.raises(Disagreement):
        worst_differences(
            golden_answers(pytorch_answers(served), {224: PREPROCESSING[224]}), bundle / "model.onnx", 1e-5, print
        )


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


def test_if_changed_keeps_a_bundle_that_was_made_from_the_same(
    copied: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "manifest.json").stat().st_mtime_ns
    assert export(copied, "--weights", str(tiny_weights), "--if-changed") == 0
    assert "is up to date" in capsys.readouterr().out
    assert (copied / "manifest.json").stat().st_mtime_ns == before


def test_if_changed_keeps_a_bundle_of_an_earlier_version_without_the_newer_keys(
    copied: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    for key in ("mean", "std", "activation"):
        del manifest[key]
    del manifest["weights"]["sides"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert export(copied, "--weights", str(tiny_weights), "--if-changed") == 0
    assert "is up to date" in capsys.readouterr().out


CHANGES = [
    "other statistics",
    "other activation",
    "other weights",
    "other preprocessing",
    "other labels",
    "damaged graph",
    "other versions",
]


@pytest.mark.parametrize("change", CHANGES)
def test_if_changed_exports_again_what_differs(
    copied: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    class Exporting(Exception):
        pass

    def exporting(*_: object) -> None:
        raise Exporting

    monkeypatch.setattr(bundle_maker, "replacing_bundle", exporting)
    options = ["--weights", str(tiny_weights), "--if-changed"]
    match change:
        case "other weights":
            options[1] = "untrained"
        case "other preprocessing":
            options += ["--preprocess", "224:274/240"]
        case "other statistics":
            options += ["--normalize", "inception"]
        case "other activation":
            options += ["--activation", "sigmoid"]
        case "other labels":
            (tmp_path / "labels.txt").write_text("".join(f"class {index}\n" for index in range(1000)))
            options += ["--labels", str(tmp_path / "labels.txt")]
        case "damaged graph":
            (copied / "model.onnx").write_bytes(b"")
        case "other versions":
            monkeypatch.setattr(PyTorchSource, "built_with", lambda *_: {})
    with pytest.raises(Exporting):
        export(copied, *options)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_to_be_had(*_: object) -> None:
        raise HubUnavailable("no hub")

    monkeypatch.setattr("model.weights.official_weights", nothing_to_be_had)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("versions", ["the same", "newer"])
def test_auto_does_not_replace_trained_weights_by_untrained_ones(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, versions: str
) -> None:
    if versions == "newer":
        monkeypatch.setattr(PyTorchSource, "built_with", lambda *_: {})
    assert export(copied, "--if-changed") == 0
    assert "stays as it is: it has better weights" in capsys.readouterr().out


@pytest.mark.usefixtures("no_hub")
def test_auto_does_not_replace_trained_weights_by_those_that_ship_with_the_project(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.weights.SHIPPED_FOLDER", tmp_path)
    (tmp_path / "crossvit_tiny.safetensors").write_bytes(b"others")
    (tmp_path / "crossvit_tiny.labels.json").write_text('["of", "others"]')
    assert export(copied, "--if-changed") == 0
    assert "stays as it is: it has better weights" in capsys.readouterr().out


@pytest.mark.usefixtures("no_hub")
def test_auto_does_not_replace_trained_weights_to_add_a_graph(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copied / "manifest.json").read_bytes()
    assert export(copied, "--if-changed", "--quantize", "int8") == 0
    assert "better weights than are available now; the requested graphs that it lacks" in capsys.readouterr().out
    assert (copied / "manifest.json").read_bytes() == before


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("change", ["labels", "resolutions", "damage"])
def test_trained_weights_that_are_gone_cannot_be_exported_with_changes(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"class {index}\n" for index in range(1000)))
    options = {"labels": ["--labels", str(tmp_path / "labels.txt")], "resolutions": ["--resolutions", "224"]}
    if change == "damage":
        (copied / "labels.json").write_text("[]")
    assert export(copied, "--if-changed", *options.get(change, [])) == 1
    assert "give the weights with --weights, or remove the folder" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"weights": None}, {"weights": "x"}, {"files": []}, {"classes": "many"}])
def test_a_damaged_manifest_is_exported_again(
    copied: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | change))
    monkeypatch.setattr(bundle_maker, "replacing_bundle", lambda _: (_ for _ in ()).throw(NotABundle("exporting")))
    assert export(copied, "--weights", "untrained", "--if-changed") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "/nowhere.pth"], "error: no weights at /nowhere.pth"),
        (["--weights", "untrained", "--labels", "/nowhere.txt"], "error: cannot read /nowhere.txt"),
        (["--weights", "untrained", "--out", "/proc/here"], "error: /proc/here cannot be written: No such file"),
        (["--weights", "untrained", "--out", __file__], "is not a bundle; it is not touched"),
    ],
)
def test_errors_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert export(tmp_path / "b", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resolutions", "225"], "invalid choice: 225"),
        (["--resolutions", "32"], "another multiple of 32 from 64 to 2048"),
        (["--mean", "124", "116", "104", "--std", "58", "57", "57"], "divide them by 255"),
        (["--mean", "0.5", "0.5", "0.5"], "--mean and --std belong together"),
        (["--std", "0.5", "0.5", "0.5", "--normalize", "clip"], "give either"),
        (["--variant", "crossvit_9_480"], "there are no weights of crossvit_9 at 480"),
        (["--preprocess", "224"], "'224' is not RESOLUTION:RESIZE/CROP"),
        (["--preprocess", "224:200/224"], "the crop must fit into the resized image"),
        (["--preprocess", "224:5000/224"], "at most 4096 pixels a side"),
        (["--preprocess", "224:300/288"], "branch sides 240/224 of 224"),
        (["--calibration", "photos"], "--calibration is for --quantize int8"),
        (["--resolutions", "224", "--preprocess", "384:384/384"], "384 is not among --resolutions"),
    ],
)
def test_invalid_arguments_are_refused(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert to_onnx.main(["--variant", TINY.name, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_network_of_another_size_is_offered_at_it_beside_the_usual_ones() -> None:
    assert ExportOptions().steps((480, 448)) == {
        224: Preprocessing(256, 224),
        384: Preprocessing(384, 384),
        448: Preprocessing(448, 448),
        480: Preprocessing(480, 480),
    }
    assert ExportOptions(resolutions=(448,)).steps((480, 448)) == {448: Preprocessing(448, 448)}
    assert list(ExportOptions().steps((60, 64))) == [64, 224, 384, 480]


def test_a_network_of_sides_of_its_own_is_offered_at_them_alone() -> None:
    assert ExportOptions().steps((360, 336)) == {336: Preprocessing(384, 336)}
    with pytest.raises(BadCheckpoint, match="were trained with sides of 360 and 336"):
        ExportOptions(resolutions=(224,)).steps((360, 336))


def test_a_head_of_one_class_is_served_with_sigmoid_and_refused_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(TINY, dims=(24, 48), depth=1)  # with one encoder: a graph of few nodes takes half the time
    monkeypatch.setitem(VARIANTS, TINY.name, small)
    monkeypatch.setattr("model.crossvit.ENCODERS", 1)
    monkeypatch.setattr("model.parameter_shapes.ENCODERS", 1)
    monkeypatch.setattr(pytorch_source, "sources_are_current", lambda: False)
    weights, out = tmp_path / "one.safetensors", tmp_path / "one"
    save_file(reference_network.tensors(small, classes=1, resolution=64), weights)
    (tmp_path / "one.labels.json").write_text('["cat"]')
    options = ["--weights", str(weights), "--normalize", "inception", "--resolutions", "64"]
    assert export(out, *options) == 1
    assert "the softmax of a single logit is 1 for every image; give --activation sigmoid" in capsys.readouterr().err
    assert export(out, *options, "--activation", "sigmoid") == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["activation"], manifest["mean"], manifest["default_resolution"]) == ("sigmoid", [0.5] * 3, 64)
    opened = open_bundle(out)
    opened.close()
    assert opened.warning is None
    logits = opened.golden(64).logits[0, 0]
    ((index, score),) = best_classes(logits, 5, opened.manifest.activation)
    assert index == 0
    assert score == pytest.approx(1 / (1 + np.exp(-logits[0])))
