"""The command, on a bundle of a small network."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner, Result

from app.cli import main
from bundle.file_names import CALIBRATION
from bundle.reader import open_bundle
from tests.support.pictures import encoded, scene

ENGINE = ["--engine", "onnxruntime", "--precision", "f32"]
IMAGES = 300  # the fewest that will do


def calibrate(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["calibrate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.stderr
    return done


@pytest.fixture(scope="module")
def data(bundle: Path, shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Small pictures of 20 classes of the bundle; whether the network knows them does not matter here."""
    opened = open_bundle(bundle)
    opened.close()

    def fill(folder: Path) -> None:
        with zipfile.ZipFile(folder / "labelled.zip", "w") as archive:
            for number in range(IMAGES):
                picture = encoded(scene(48, 48, number))
                archive.writestr(f"{opened.labels[number % 20].wnid}/{number}.png", picture)

    return shared("labelled", fill) / "labelled.zip"


@pytest.fixture(scope="module")
def calibrated(bundle: Path, data: Path, shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A folder with the bundle, calibrated with a cascade, and what the command printed."""

    def fill(folder: Path) -> None:
        copy = shutil.copytree(bundle, folder / bundle.name)
        dear = shutil.copytree(bundle, folder / "dear")
        options = ["--cascade", f"{dear}:224", "--share", 0.4, "--format", "json", *ENGINE]
        done = calibrate(data, "--bundle", copy, *options)
        (folder / "printed.json").write_text(done.stdout)
        (folder / "notes.txt").write_text(done.stderr)

    return shared("calibrated", fill)


def test_it_writes_scores_and_the_cascade_and_prints_them(calibrated: Path, bundle: Path) -> None:
    copy = calibrated / bundle.name
    printed: dict[str, Any] = json.loads((calibrated / "printed.json").read_text())
    written = json.loads((copy / CALIBRATION).read_text())
    assert [(each["precision"], each["resolution"]) for each in written["scores"]] == [("f32", 224)]
    assert not (calibrated / "dear" / CALIBRATION).exists()
    assert printed["scores"] == written["scores"]
    assert [printed["cascade"]] == written["cascades"]
    assert printed["scores"][0]["images"] == IMAGES
    assert printed["scores"][0]["data"] == ["labelled.zip"]
    assert printed["cascade"]["second"]["model"] == "dear"
    assert printed["cascade"]["answered_by_first"] == pytest.approx(0.6, abs=0.08)
    assert "a running service reads it" in (calibrated / "notes.txt").read_text()
    assert {path.name for path in copy.iterdir()} == {path.name for path in bundle.iterdir()} | {CALIBRATION}


def test_the_bundle_serves_what_was_written(calibrated: Path, bundle: Path, tmp_path: Path) -> None:
    """`crossvit classify` prints softmax of the logits by the temperature; the best class stays."""
    picture = tmp_path / "a.png"
    picture.write_bytes(encoded(scene(48, 48, 3)))

    def classes(of: Path) -> list[dict[str, Any]]:
        done = CliRunner().invoke(
            main,
            ["classify", str(picture), "--bundle", str(of), "--top-k", "1000", "--format", "jsonl"],
            env={"CROSSVIT_ENGINE": "onnxruntime", "CROSSVIT_PRECISION": "f32"},
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["predictions"]
        return found

    plain, after = classes(bundle), classes(calibrated / bundle.name)
    temperature = json.loads((calibrated / bundle.name / CALIBRATION).read_text())["scores"][0]["temperature"]
    logs = np.log([each["score"] for each in plain])  # the logits but for a constant
    assert [each["index"] for each in after[:20]] == [each["index"] for each in plain[:20]]
    assert [each["score"] for each in after] == pytest.approx(softmax(logs / temperature).tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "100"], "100 labelled images are too few"),
        (["--resolution", "96"], "resolution 96 is not served"),
        (["--cascade", "96"], "resolution 96 is not served"),
        (["--share", "0.5"], "--share goes with --cascade"),
        (["--cascade", "224"], "both steps of the cascade are crossvit_tiny at 224"),
        (["--cascade", "large"], "--cascade large: must be a resolution"),
        (["--cascade", "384", "--share", "0.5", "--accuracy-loss", "1"], "either --accuracy-loss or --share"),
        (["--cascade", "384", "--resolution", "224", "--resolution", "480"], "one --resolution"),
        (["--part", "3/2"], "--part 3/2"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    bundle: Path, data: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    copy = shutil.copytree(bundle, tmp_path / bundle.name)
    done = calibrate(data, "--bundle", copy, *options, *ENGINE, code=2)
    assert said in done.stderr
    assert not (copy / CALIBRATION).exists()


def test_a_bundle_that_cannot_be_written_to_says_so(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    copy = shutil.copytree(bundle, tmp_path / bundle.name)
    monkeypatch.setattr("bundle.calibration.replace_file", full)
    done = calibrate(data, "--bundle", copy, *ENGINE, code=2)
    assert "No space left on device; make room there" in done.stderr
    assert "temperature" in done.stdout  # the figures are not lost
    assert "a running service reads it" not in done.stderr
    assert {path.name for path in copy.iterdir()} == {path.name for path in bundle.iterdir()}


def test_a_folder_in_the_calibrations_place_is_found_before_the_images_are_run(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(bundle, tmp_path / bundle.name)
    (copy / CALIBRATION).mkdir()
    monkeypatch.setattr("app.commands.calibrate.calibrate_command.fitted_steps", None)  # would be a TypeError
    done = calibrate(data, "--bundle", copy, *ENGINE, code=2)
    assert "is a folder, and the calibration must go there: remove it" in " ".join(done.stderr.split())


def test_a_bundle_without_write_permission_is_found_before_the_images_are_run(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permission is refused by hand: root may write everywhere."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    copy = shutil.copytree(bundle, tmp_path / bundle.name)
    monkeypatch.setattr("bundle.atomic_files.tempfile.NamedTemporaryFile", denied)
    monkeypatch.setattr("app.commands.calibrate.calibrate_command.fitted_steps", None)
    done = calibrate(data, "--bundle", copy, *ENGINE, code=2)
    assert "Permission denied; make room there or make it writable" in " ".join(done.stderr.split())
