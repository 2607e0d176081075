import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from bundle.atomic_files import file_sha256
from bundle.file_names import GRAPHS
from export import to_onnx
from export.making import added_graphs
from export.measurement.comparison import Disagreement
from export.measurement.float32_answers import float32_answers
from export.measurement.photos import SHIPPED_MEASURING, photographs
from export.measurement.reduced_precision import add_precision
from model.spec import SOFTMAX, Preprocessing
from tests.support.reference_network import TINY

VIEWS = 9
VIEWS = 9
PHOTOS = photographs(SHIPPED_MEASURING)
STEPS = {224: Preprocessing(256, 224), 240: Preprocessing(240, 240)}


@pytest.fixture(autouse=True)
def few_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added_graphs, "MAX_MEASURED_VIEWS", VIEWS)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_a_graph_in_half_precision_is_written_and_measured(
    copy: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = add_precision(copy, kind, float32_answers(copy / "model.onnx", STEPS, PHOTOS, SOFTMAX, VIEWS), print)
    assert (copy / GRAPHS[kind]).stat().st_size < 0.56 * (copy / "model.onnx").stat().st_size
    assert [told.agreement[resolution].images for resolution in (224, 240)] == [9, 8]
    worst = {"fp16": 0.02, "bf16": 0.2}[kind]
    for measured in told.agreement.values():
        assert 0 < measured.worst < worst
        assert measured.fault() is None
        assert measured.scale > 1
    assert f"{kind} at 240: float32's best class for" in capsys.readouterr().out


def test_the_written_float16_file_is_the_one_that_was_measured(copy: Path) -> None:
    answers = float32_answers(copy / "model.onnx", {224: STEPS[224]}, PHOTOS, SOFTMAX, VIEWS)
    told = add_precision(copy, "fp16", answers, print)
    session = onnxruntime.InferenceSession(copy / "model.fp16.onnx")
    logits = np.stack(session.run(None, {"image": answers[224].images}))
    worst = np.abs(logits - answers[224].logits).max()
    assert told.agreement[224].worst == pytest.approx(worst, rel=0.2)  # batches are cut differently


def test_logits_that_are_nan_are_refused(copy: Path) -> None:
    model = ir.load(copy / "model.onnx")
    norm = next(value for value in model.graph.initializers.values() if str(value.name).endswith("norm.0.weight"))
    assert norm.const_value is not None
    norm.const_value = ir.tensor(np.float32(np.nan) * norm.const_value.numpy(), name=norm.name)
    answers = float32_answers(copy / "model.onnx", {224: STEPS[224]}, PHOTOS, SOFTMAX, VIEWS)
    ir.save(model, copy / "model.onnx")
    with pytest.raises(Disagreement, match="fp16 at 224: its logits are NaN or infinite; use another"):
        add_precision(copy, "fp16", answers, print)


def test_the_exporter_adds_what_was_asked_for(
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / TINY.name
    options = ["--variant", TINY.name, "--weights", str(tiny_weights), "--out", str(out), "--resolutions", "224"]

    assert to_onnx.main([*options, "--precision", "fp16"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"]["model.fp16.onnx"] == file_sha256(out / "model.fp16.onnx")
    assert set(manifest["precisions"]) == {"fp16"}

    assert to_onnx.main([*options, "--precision", "fp16", "--if-changed"]) == 0
    assert to_onnx.main([*options, "--if-changed"]) == 0  # it has what is asked for, and more
    assert capsys.readouterr().out.count("is up to date") == 2

    assert to_onnx.main([*options, "--precision", "fp16", "bf16", "--if-changed"]) == 0
    assert set(json.loads((out / "manifest.json").read_text())["precisions"]) == {"fp16", "bf16"}


def test_a_folder_without_photographs_leaves_the_bundle_as_it_was(
    tiny_weights: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    (copy.parent / "empty").mkdir()
    options = ["--variant", TINY.name, "--weights", str(tiny_weights), "--out", str(copy), "--resolutions", "224"]
    assert to_onnx.main([*options, "--precision", "fp16", "--images", str(copy.parent / "empty")]) == 1
    assert "no photographs" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
