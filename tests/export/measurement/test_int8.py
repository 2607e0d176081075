import json
import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bundle.atomic_files import file_sha256
from export import to_onnx
from export.graphs import quantization_recipe
from export.inputs import if_changed
from export.making import added_graphs, bundle_maker
from export.measurement import int8
from export.measurement.photos import SHIPPED, crops, photo_sets, photographs
from model.spec import Preprocessing
from tests.support.pictures import scene
from tests.support.reference_network import TINY


@pytest.fixture
def few_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (added_graphs, if_changed):
        monkeypatch.setattr(module, "MAX_MEASURED_VIEWS", 9)
    for module in (int8, if_changed):
        monkeypatch.setattr(module, "CALIBRATION_VIEWS", 3)


calibrated: list[np.ndarray] = []


def quantize_graph(path: Path, images: Iterable[np.ndarray]) -> ir.Model:
    """The graph as it is; the images to calibrate on are kept."""
    calibrated[:] = images
    return ir.load(path)


@pytest.fixture
def options(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    # NNCF's graph is tried in test_quantize.
    monkeypatch.setattr(int8, "quantize_graph", quantize_graph)
    out = ["--out", str(tmp_path / TINY.name)]
    return ["--variant", TINY.name, "--weights", str(tiny_weights), *out, "--resolutions", "224"]


@pytest.mark.usefixtures("few_photographs")
def test_an_export_in_8_bits_is_described_measured_and_made_once(
    options: list[str],
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / TINY.name
    shutil.copytree(bundle, out)  # without int8
    options += ["--quantize", "int8"]
    assert to_onnx.main([*options, "--if-changed"]) == 0
    capsys.readouterr()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"]["model.int8.onnx"] == file_sha256(out / "model.int8.onnx")
    assert manifest["agreement"]["int8"]["224"]["images"] == 9
    assert manifest["agreement"]["int8"]["224"]["top1"] == 1  # it is float32's own graph here
    assert manifest["quantization"]["views"] == {"224": 3}
    assert manifest["quantization"]["photographs"]["source"] == manifest["measured_on"]["source"] == "shipped"
    assert manifest["quantization"]["photographs"]["sha256"] != manifest["measured_on"]["sha256"]
    assert "cross-attention" in manifest["quantization"]["kept_in_float32"]
    expected = crops(Preprocessing(256, 224), 3, photographs(SHIPPED))
    np.testing.assert_array_equal(np.concatenate(calibrated), expected)

    assert to_onnx.main([*options, "--if-changed"]) == 0
    assert to_onnx.main([*options[:-2], "--if-changed"]) == 0  # it has what is asked for, and more
    assert capsys.readouterr().out.count("is up to date") == 2

    for changed in ({"smooth_quant_alpha": 0.9}, {"made_by": "nncf 1.0"}, {"kept_in_float32": ["nothing"]}):
        other = manifest | {"quantization": manifest["quantization"] | changed}
        (out / "manifest.json").write_text(json.dumps(other))
        is_made_anew([*options, "--if-changed"], monkeypatch)
    (out / "manifest.json").write_text(json.dumps(manifest))
    with monkeypatch.context() as patched:
        patched.setattr(quantization_recipe, "version", not_installed)
        assert to_onnx.main([*options, "--if-changed"]) == 0  # it cannot be made again, and is whole

    own = tmp_path / "own"
    own.mkdir()
    for number in range(4):
        scene(80 + number, 60).save(own / f"{number}.jpg")
    options += ["--calibration", str(own), "--if-changed"]
    is_made_anew(options, monkeypatch)
    sets = photo_sets(own, None)
    manifest["quantization"]["photographs"] = sets.calibrating.for_manifest(3).model_dump()
    (out / "manifest.json").write_text(json.dumps(manifest))
    is_made_anew(options, monkeypatch)  # it was measured on others
    manifest["measured_on"] = sets.measuring.for_manifest(9).model_dump()
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert to_onnx.main(options) == 0
    assert "up to date" in capsys.readouterr().out


def is_made_anew(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(bundle_maker, "replacing_bundle", made_anew)
        with pytest.raises(MadeAnew):
            to_onnx.main(options)


def not_installed(package: str) -> str:
    raise PackageNotFoundError(package)


class MadeAnew(Exception):
    """An export that does not leave the bundle as it is."""


def made_anew(_: object) -> None:
    raise MadeAnew


def test_without_nncf_the_export_ends_at_once_with_a_sentence(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bundle.installation.find_spec", lambda name: None if name == "nncf" else object())
    assert to_onnx.main([*options, "--quantize", "int8"]) == 1
    assert "error: int8 needs nncf, not installed here" in capsys.readouterr().err
    assert not (tmp_path / TINY.name).exists()
