import json
import shutil
import stat
from pathlib import Path

import pytest

from bundle.calibration import keep_calibration, read_calibration, scored_graph
from bundle.file_names import CALIBRATION, MANIFEST
from bundle.reader import open_bundle
from tests.support.calibrations import calibrate_bundle, made_calibration, made_cascade, read_manifest


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / bundle.name))


def test_a_bundle_without_one_has_none(copy: Path) -> None:
    opened = open_bundle(copy)
    opened.close()
    assert (opened.calibration.scores, opened.calibration.remarks) == ({}, ())


def test_what_is_written_is_read_and_the_bundle_stays_the_same(copy: Path) -> None:
    before = open_bundle(copy)
    fitted = [made_calibration(copy), made_calibration(copy, 0.7, resolution=384)]
    calibrate_bundle(copy, *fitted)
    after = open_bundle(copy)
    assert after.hash == before.hash
    assert after.same_as(before)
    assert after.calibration.scores == {("f32", 224): fitted[0], ("f32", 384): fitted[1]}
    assert stat.S_IMODE((copy / CALIBRATION).stat().st_mode) == 0o644
    for opened in (before, after):
        opened.close()


def test_a_new_one_takes_the_place_of_that_of_its_precision_and_resolution(copy: Path) -> None:
    calibrate_bundle(copy, made_calibration(copy), made_calibration(copy, precision="bf16"))
    calibrate_bundle(copy, made_calibration(copy, 0.9))
    found = read_calibration(copy, read_manifest(copy)).scores
    assert {key: each.temperature for key, each in found.items()} == {("bf16", 224): 0.5, ("f32", 224): 0.9}


def test_one_of_another_graph_or_preprocessing_is_passed_over_with_a_remark(copy: Path) -> None:
    calibrate_bundle(copy, made_calibration(copy), made_calibration(copy, resolution=384))
    content = json.loads((copy / MANIFEST).read_text())
    content["preprocessing"]["384"]["resize"] += 2
    (copy / MANIFEST).write_text(json.dumps(content))
    found = read_calibration(copy, read_manifest(copy))
    assert list(found.scores) == [("f32", 224)]
    assert "f32 at 384" in found.remarks[0]
    assert "another graph" in found.remarks[0]

    content["files"]["model.onnx"] = "0" * 64
    (copy / MANIFEST).write_text(json.dumps(content))
    assert not read_calibration(copy, read_manifest(copy)).scores


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b'{"format": 2}', b'{"scores": [{"temperature": 1}]}', b'{"scores": NaN}', b"{" * 100_000],
)
def test_a_damaged_one_is_passed_over_with_a_remark(copy: Path, content: bytes) -> None:
    (copy / CALIBRATION).write_bytes(content)
    opened = open_bundle(copy)
    opened.close()
    assert not opened.calibration.scores
    assert "crossvit calibrate" in opened.calibration.remarks[0]


@pytest.mark.parametrize("temperature", ["0", "-1", "1e9", "NaN", "1e-9"])
def test_a_temperature_that_cannot_be_is_passed_over(copy: Path, temperature: str) -> None:
    calibrate_bundle(copy, made_calibration(copy, 0.123456))
    file = copy / CALIBRATION
    file.write_text(file.read_text().replace("0.123456", temperature))
    assert not read_calibration(copy, read_manifest(copy)).scores


def test_a_bundle_that_is_made_again_keeps_what_fits(copy: Path, tmp_path: Path) -> None:
    calibrate_bundle(copy, made_calibration(copy))
    new = tmp_path / "new"
    new.mkdir()
    manifest = read_manifest(copy)
    keep_calibration(copy, new, manifest)
    assert (new / CALIBRATION).read_bytes() == (copy / CALIBRATION).read_bytes()

    other = tmp_path / "other"
    other.mkdir()
    changed = manifest.model_copy(update={"files": manifest.files | {"model.onnx": "0" * 64}})
    keep_calibration(copy, other, changed)
    assert list(other.iterdir()) == []


def test_a_coverage_between_two_fitted_ones_takes_the_higher(copy: Path) -> None:
    sets = made_calibration(copy, thresholds={0.8: 0.5, 0.9: 0.75}).sets
    assert sets is not None
    found = [sets.at(each) for each in (0.5, 0.8, 0.805, 0.9, 0.95)]
    assert [each and each.coverage for each in found] == [0.8, 0.8, 0.9, 0.9, None]


def test_the_graph_in_8_bits_is_another_one(copy: Path) -> None:
    manifest = read_manifest(copy)
    eight = manifest.model_copy(update={"files": manifest.files | {"model.int8.onnx": "8" * 64}})
    for precision in ("int8", "int8-bf16"):
        scored = scored_graph(eight, precision, 224)
        assert scored is not None
        assert scored.graph_sha256 == "8" * 64
    assert scored_graph(eight, "int8", 96) is None
    assert scored_graph(eight, "bf16", 224) == scored_graph(eight, "f32", 224) == scored_graph(manifest, "f32", 224)


def test_a_cascade_goes_when_the_scores_of_its_first_step_are_others(copy: Path) -> None:
    calibrate_bundle(copy, made_calibration(copy), cascade=made_cascade(copy, 0.3))
    found = read_calibration(copy, read_manifest(copy))
    assert found.cascades == (made_cascade(copy, 0.3),)

    calibrate_bundle(copy, made_calibration(copy, resolution=384), cascade=made_cascade(copy, 0.4))
    assert [each.threshold for each in read_calibration(copy, read_manifest(copy)).cascades] == [0.4]
    calibrate_bundle(copy, made_calibration(copy, 0.9))
    found = read_calibration(copy, read_manifest(copy))
    assert (found.cascades, found.remarks) == ((), ())
    assert len(found.scores) == 2


def test_a_cascade_of_another_graph_is_passed_over_with_a_remark(copy: Path) -> None:
    calibrate_bundle(copy, made_calibration(copy), cascade=made_cascade(copy, 0.3))
    content = json.loads((copy / MANIFEST).read_text())
    content["preprocessing"]["384"]["resize"] += 2
    (copy / MANIFEST).write_text(json.dumps(content))
    found = read_calibration(copy, read_manifest(copy))
    assert (len(found.scores), found.cascades) == (1, ())
    assert "the cascade" in found.remarks[0]
