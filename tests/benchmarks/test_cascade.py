"""benchmarks.cascade, for a moment."""

import shutil
import zipfile
from pathlib import Path

import pytest

from benchmarks.cascade import Way, draw, overload, row, steps
from bundle.reader import open_bundle
from tests.support.calibrations import calibrate_bundle, made_calibration, made_cascade
from tests.support.pictures import encoded, scene


@pytest.fixture
def data(bundle: Path, tmp_path: Path) -> Path:
    opened = open_bundle(bundle)
    opened.close()
    with zipfile.ZipFile(tmp_path / "labelled.zip", "w") as archive:
        for number in range(12):
            archive.writestr(f"{opened.labels[number].wnid}/{number}.png", encoded(scene(48, 48, number)))
    return tmp_path / "labelled.zip"


@pytest.fixture
def cascaded(bundle: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(bundle, tmp_path / bundle.name))
    calibrate_bundle(copy, made_calibration(copy), cascade=made_cascade(copy, 0.5))
    return copy


@pytest.mark.exhaustive
def test_steps_measures_both_steps_and_the_cascade_at_several_thresholds(
    data: Path, cascaded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "cascade.png"
    steps([data], cascaded, rounds=1, limit=12, clients=2, engine="onnxruntime", precision="f32", plot=plot)
    printed = capsys.readouterr().out
    for name in ("first step alone", "second step alone", "cascade, as fitted", "cascade, 50% sent on"):
        assert f"| {name}" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.exhaustive
def test_overload_prints_what_was_answered_with_and_without(
    data: Path, cascaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overload([data], cascaded, limit=12, seconds=2, clients=8, rounds=1, engine="onnxruntime", precision="f32")
    printed = capsys.readouterr().out
    assert printed.count("| without") == 2
    assert printed.count("| --brown-out 0.2,0.5") == 2


def test_a_row_has_the_figures_and_the_ratio_to_the_second_step(tmp_path: Path) -> None:
    second = Way("second step alone", "", None, [10.0, 20.0], [True, False], [False] * 2, [0.5] * 2, [0.1, 0.2])
    first = Way("first step alone", "", None, [30.0, 40.0], [True, False], [False] * 2, [0.5] * 2, [0.1, 0.2])
    way = Way("cascade, as fitted", "", 0.5, [20.0, 30.0], [True, True], [True, False], [0.5] * 2, [0.1, 0.3])
    found = row(way, second)
    assert (found["by the second step"], found["top-1"], found["images/s"]) == ("50.0%", "100.00%", "25.0")
    assert found["of the second step's"] == "1.75 (1.50 to 2.00)"
    draw([first, second, way], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
