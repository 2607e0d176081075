from pathlib import Path

import pytest

from benchmarks.cpu.load import Closed, Fixed
from benchmarks.cpu.plots import plot_engines, plot_services
from benchmarks.cpu.report import CpuReport, closed_table, engine_table, fixed_table, markdown, memory_table, summary
from benchmarks.cpu.services import Service, ServiceSection
from benchmarks.gpu.results import Entry, Round, Section

FACTS = {
    "command": "make bench",
    "cores": 2,
    "cpu": "Some CPU",
    "family": "family 6, model 207",
    "instructions": ["avx2"],
    "python": "3.11",
    "versions": {"torch": "2.9"},
    "commit": "abc",
    "began": "2026-01-01T00:00:00Z",
    "load": 0.1,
    "rounds": "2",
    "photographs": 8,
}


def cells(table: str) -> list[dict[str, str]]:
    """The rows by their columns."""
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture
def report() -> CpuReport:
    """Two rounds: a call of the eager contestant takes 1 s, then 2; one of ours a quarter of a second."""
    eager = Entry("eager", facts={"source": "timm's module"}, first_seconds={8: 1.0}, load_seconds=1.0)
    ours = Entry("ours", facts={"engine": "openvino", "precision": "int8"}, memory_mb=300.4, top1_agreement=1.0)
    eager.rounds = {8: [Round([1.0], []), Round([2.0], [])]}
    ours.rounds = {1: [Round([0.1, 0.3], [])], 8: [Round([0.25], []), Round([0.25], [])]}
    broken = Entry("compile", error="load: no C++ compiler | none\nat all")
    section = Section("crossvit_tiny", 224, 224, 1.56, [1, 8], "untrained", entries=[eager, broken, ours])
    plain, mine = Service("plain"), Service("ours", resident_mb=500.0, proportional_mb=400.0)
    plain.closed = {
        16: [Closed(1, 2, 2.0, 0, 0, [(200_000, 2)], [0, 200]), Closed(1, 2, 2.0, 0, 0, [(100_000, 2)], [0, 100])]
    }
    mine.closed = {
        16: [
            Closed(1, 9, 2.0, 0, 0, [(30_000, 60)], [0, 50]),
            Closed(1, 9, 2.0, 0, 1, [(30_000, 59), (90_000, 1)], [0, 50]),
        ]
    }
    mine.fixed = {"0.5": [Fixed(15.0, [0.02, 0.03, 0.04], 1)]}
    lit = Service("litserve-pytorch", error="litserve is not installed")
    services = ServiceSection("crossvit_tiny", [16], [0.5], [plain, lit, mine])
    return CpuReport(dict(FACTS), [section], services=[services])


def test_engines_have_medians_and_ratios_taken_round_by_round(report: CpuReport) -> None:
    eager, broken, ours = cells(engine_table(report.sections))
    assert ours["images/s at batch 8"] == "32.0"
    assert ours["times eager, batch 8"] == "6.00 (4.00 to 8.00)"
    assert ours["times ONNX Runtime, batch 8"] == ""
    assert ours["engine"] == "**this project's engine, precision auto (openvino int8)**"
    assert ours["p50, p99 ms at batch 1"] == "100.0, 300.0"
    assert eager["ready after, s"] == "2.0"
    assert eager["times eager, batch 8"] == "1.00 (1.00 to 1.00)"
    assert broken["images/s at batch 1"] == "load: no C++ compiler \\| none at all"


def test_services_have_medians_and_the_latencies_of_all_rounds(report: CpuReport) -> None:
    plain, lit, ours = cells(closed_table(report))
    assert (plain["requests/s"], ours["requests/s"]) == ("7.5", "20.0")
    assert ours["times FastAPI + PyTorch"] == "3.00 (2.00 to 4.00)"
    assert (plain["p50 ms"], plain["p99 ms"], ours["p99 ms"]) == ("100", "200", "30")
    assert lit["requests/s"] == "litserve is not installed"


def test_requests_at_a_fixed_rate_that_got_no_answer_are_told(report: CpuReport) -> None:
    (ours,) = cells(fixed_table(report))
    assert (ours["requests/s sent"], ours["answered"], ours["p50 ms"], ours["p99 ms"]) == ("15.0", "3 of 4", "30", "40")
    assert [row["errors"] for row in cells(memory_table(report))] == ["0", "litserve is not installed", "2"]


def test_a_report_says_on_what_and_with_which_command(report: CpuReport) -> None:
    text = markdown(report)
    for there in ("2 cores of Some CPU", "torch 2.9", "commit abc", "`make bench`", "timm's module", "untrained"):
        assert there in text


def test_figures_are_drawn_of_what_there_is(report: CpuReport, tmp_path: Path) -> None:
    plot_engines(report.sections, tmp_path / "engines.png")
    plot_services(report.services, tmp_path / "services.png")
    for file in tmp_path.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")


def test_a_summary_has_the_networks_abreast(report: CpuReport) -> None:
    head, engines, services = summary(report).strip().split("\n\n")
    assert "commit abc" in head
    _, broken, ours = cells(engines)
    column = "crossvit_tiny at 224: images/s (times eager)"
    assert ours["engine alone, batch 8"] == "**this project's engine, precision auto**"
    assert ours[column] == "32.0 (6.00)"  # 4 and 8 times
    assert broken[column] == ""
    column = "crossvit_tiny: requests/s (times LitServe + PyTorch)"
    assert [row[column] for row in cells(services)] == ["7.5", "", "20.0"]
