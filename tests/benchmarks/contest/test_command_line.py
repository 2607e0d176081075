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
    weights, out = ("--weights", tiny_weights.parent), ("--out", tmp_path / "out")
    quick = ("--rounds", 1, "--seconds", 0.01)
    assert contest("engines", bundle, "--contestants", "ours", "--batches", "1", *quick, *weights, *out) == 0
    assert contest("services", bundle, "--contestants", "plain,ours", "--clients", "1", *quick, *weights, *out) == 0
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    capsys.readouterr()
    assert contest("report", "--readme", readme, *out) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["command"].split()[3] for run in found["runs"]] == ["engines", "services"]
    assert list(found["runs"][0]["weights"]) == [TINY.name]
    assert [(entry["error"], entry["agreement"]) for entry in found["entries"]] == [("", 1)]
    assert [service["error"] for service in found["services"]] == ["", ""]
    assert capsys.readouterr().out.strip() == (tmp_path / "out" / "table.md").read_text().strip()
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"engines.png", "services.png"}
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| **this project's engine, precision auto** |" in text
    assert "![engines](out/engines.png)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engines", "nowhere"], "nowhere (manifest.json"),
        (["engines", "nowhere", "--contestants", "a,eager"], "no contestant is called a"),
        (["engines", "nowhere", "--batches", "x"], "invalid literal"),
        (["engines", "nowhere", "--photos", "nothing"], "nothing"),
        (["engines", "nowhere", "--device", "cuda"], "--device cpu rehearses without one"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    contest: Contest, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert contest(*arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
