import json
from pathlib import Path

import pytest

from benchmarks.contest import cpu
from benchmarks.contest.readme import BEGIN, END
from tests.support.reference_network import TINY


@pytest.fixture
def places(bundle: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", "")
    return ["--bundles", str(bundle.parent), "--networks", bundle.name, "--out", str(tmp_path / "out"),
            "--weights", str(tiny_weights)]  # fmt: skip


def test_engines_are_measured_and_the_summary_goes_into_the_readme(places: list[str], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    options = ["--engines", "onnxruntime", "ours", "--services", "--batches", "1", "--rounds", "2", "--seconds", "0.01"]
    assert cpu.main([*places, *options, "--readme", str(readme)]) == 0
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    (section,) = report["sections"]
    for entry in section["entries"]:
        assert (entry["error"], entry["top1_agreement"]) == (None, 1)
        assert len(entry["rounds"]["1"]) == 2
    assert report["facts"]["weights"] == {TINY.name: section["weights"]}
    assert (tmp_path / "out" / "engines.png").read_bytes().startswith(b"\x89PNG")
    assert "| **this project's engine, precision auto** |" in readme.read_text()
    assert (tmp_path / "out" / "table.md").read_text().count(f"| {TINY.name} | 224 |") == 2


def test_other_weights_than_the_bundle_s_are_refused(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu.main([*places, "--weights", "untrained", "--engines", "onnxruntime", "--services"]) == 1
    assert "the bundle was made from other weights" in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_an_error(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu.main([*places, "--networks", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
