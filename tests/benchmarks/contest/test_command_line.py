import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.command_line import run
from benchmarks.contest import service_contest
from benchmarks.contest.__main__ import engines, report, services
from benchmarks.contest.readme import BEGIN, END
from tests.support.reference_network import TINY

Contest = Callable[..., int | str | None]


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch) -> Contest:
    """Runs the command line in this process; gives the exit code."""

    def main(*arguments: object) -> int | str | None:
        monkeypatch.setenv("PYTHONPATH", "")
        monkeypatch.setattr(service_contest, "WARM_UP_SECONDS", 0.1)
        monkeypatch.setattr("sys.argv", ["contest", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run(engines, services, report, program="benchmarks.contest")
        return ended.value.code

    return main


def test_what_is_measured_is_kept_and_reported_and_the_summary_goes_into_the_readme(
    contest: Contest, bundle: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = ["--contestants", "onnxruntime", "--batches", "1", "--rounds", "1", "--seconds", "0.01"]
    places = ["--weights", tiny_weights.parent, "--out", tmp_path / "out"]
    for _ in range(2):  # the second run takes the place of the first
        assert contest("engines", bundle, *measured, *places) == 0
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    capsys.readouterr()
    assert contest("report", "--readme", readme, "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["command"].split()[3] for run in found["runs"]] == ["engines"]
    assert list(found["runs"][0]["weights"]) == [TINY.name]
    assert [(entry["error"], entry["agreement"]) for entry in found["entries"]] == [("", 1)]
    assert capsys.readouterr().out.strip() == (tmp_path / "out" / "table.md").read_text().strip()
    assert (tmp_path / "out" / "engines.png").exists()
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| ONNX Runtime as it comes |" in text
    assert "![engines](out/engines.png)" in text


@pytest.mark.exhaustive
def test_this_service_and_the_simplest_one_are_measured(
    contest: Contest, bundle: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    measured = ["--contestants", "plain,ours", "--clients", "1", "--rounds", "1", "--seconds", "0.1"]
    assert contest("services", bundle, *measured, "--weights", tiny_weights.parent, "--out", tmp_path) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert [service["error"] for service in found["services"]] == ["", ""]
    assert contest("report", "--out", tmp_path) == 0
    assert (tmp_path / "services.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engines", "nowhere"], "nowhere (manifest.json"),
        (["engines", "nowhere", "--contestants", "a,eager"], "no contestant is called a;"),
        (["services", "nowhere", "--contestants", "nobody"], "no contestant is called nobody"),
        (["engines", "nowhere", "--batches", "x"], "invalid literal"),
        (["engines", "nowhere", "--batches", "0"], "not over 0"),
        (["engines", "BUNDLE", "--weights", "nosuch.pth"], "nosuch.pth"),
        (["engines", "BUNDLE", "--resolutions", "225", "--weights", "WEIGHTS"], "does not offer 225, but 224"),
        (["engines", "BUNDLE", "BUNDLE", "--weights", "WEIGHTS"], "one of each variant"),
        (["services", "BUNDLE", "--weights", "untrained"], "made from other weights"),
        (["report", "--out", "OUT"], "nothing that was measured"),
        (["engines", "nowhere", "--photos", "nothing"], "nothing"),
        (["engines", "nowhere", "--device", "cuda"], "--device cpu rehearses without one"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    contest: Contest,
    arguments: list[str],
    message: str,
    bundle: Path,
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"BUNDLE": bundle, "WEIGHTS": tiny_weights, "OUT": tmp_path}
    out = [] if "--out" in arguments else ["--out", tmp_path]
    assert contest(*(places.get(argument, argument) for argument in arguments), *out) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
