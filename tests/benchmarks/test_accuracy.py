import json
import shutil
from pathlib import Path

import pytest

from benchmarks.accuracy import accuracy
from benchmarks.contest.readme import BEGIN, END
from tests.support.agreements import agreement
from tests.support.pictures import encoded, scene


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images of two of ImageNet's classes."""
    for number, wnid in enumerate(["n01440764", "n01443537"] * 2):
        (tmp_path / "data" / wnid).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / wnid / f"{number}.png").write_bytes(encoded(scene(260, 240, number)))
    return tmp_path / "data"


def cells(text: str) -> dict[str, list[str]]:
    """The cells of each row by its name."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")][2:]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_views_are_compared_with_the_images_as_they_are(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "page.md"
    file.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    accuracy([data], bundle, seen=True, out=out, write=file)
    found = cells(capsys.readouterr().out)
    assert found["Display P3, converted back"][-1] in ("", "first 0, this 0, of 1")  # rounding may change one at most
    assert {"Adobe RGB, profile ignored", "mirrored", "turned by 90 degrees"} <= found.keys()
    assert cells(file.read_text()) == found
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert len(rows["as they are"]["best"]) == 4
    assert rows["mirrored"]["figures"] != rows["as they are"]["figures"]


@pytest.mark.exhaustive
def test_a_stopped_run_continues_and_other_data_begins_anew(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy([data], bundle, seen=True, out=tmp_path)
    assert "as they are …" in capsys.readouterr().err
    accuracy([data], bundle, seen=True, out=tmp_path)
    assert "…" not in capsys.readouterr().err
    accuracy([data], bundle, seen=True, limit=2, out=tmp_path)
    assert "as they are …" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_every_precision_that_runs_here_is_a_row_beside_pytorch(
    data: Path, bundle: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy([data], bundle, tiny_weights, out=tmp_path)
    found = cells(capsys.readouterr().out)
    assert found["PyTorch, float32"][:2] == found["ONNX Runtime, float32"][:2] == found["OpenVINO, float32"][:2]
    assert found["ONNX Runtime, float32"][-2] == "100.00%"
    assert any(name.startswith("over HTTP") for name in found)


@pytest.mark.exhaustive
def test_what_the_export_measured_stands_beside_what_the_images_say(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(bundle, copied)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["agreement"] = {"bf16": {"224": agreement(distance=0.2).model_dump()}}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    accuracy([data], copied, precisions=True, out=tmp_path / "out")
    tables = capsys.readouterr().out.split("```")
    assert list(cells(tables[0])) == ["OpenVINO, float32", "OpenVINO, bf16"]
    (row,) = cells(tables[2]).values()
    assert row[:2] == ["200 (10)", "20.00%"]
    assert row[5].startswith("its logits differ from float32's by 20.0% of their spread")
    assert row[7] in ("100.00%", "75.00%")
