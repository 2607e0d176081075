from pathlib import Path

import pytest

from benchmarks.contest.plots import plot_engines, plot_services
from benchmarks.contest.report import (
    closed_table,
    engine_table,
    fastest_compiled,
    fixed_table,
    gpu_columns,
    header,
    markdown,
    memory_table,
    row,
    summary,
    table,
    weights_caption,
)
from benchmarks.contest.results import Entry, LoadRound, Report, Round, Section, Service, ServiceSection

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
def report() -> Report:
    """Two rounds: a call of the eager contestant takes 1 s, then 2; one of ours a quarter of a second."""
    eager = Entry("eager", "PyTorch", facts={"source": "timm's module"}, first_seconds={8: 1.0}, load_seconds=1.0)
    ours = Entry("ours", "our engine", facts={"note": "openvino int8"}, memory_mb=300.4, top1_agreement=1.0)
    eager.rounds = {8: [Round([1.0], []), Round([2.0], [])]}
    ours.rounds = {1: [Round([0.1, 0.3], [])], 8: [Round([0.25], []), Round([0.25], [])]}
    broken = Entry("compile", "torch.compile", error="load: no C++ compiler | none\nat all")
    section = Section("crossvit_tiny", 224, 224, 1.56, [1, 8], "untrained", entries=[eager, broken, ours])
    plain, lit = Service("plain", "FastAPI"), Service("litserve-pytorch", "LitServe", error="litserve is not installed")
    mine = Service("ours", "this service", resident_mb=500.0, proportional_mb=400.0)
    plain.closed = {1: [LoadRound(2.0, [(0.0, 0.2), (0.2, 0.4)]), LoadRound(2.0, [(0.0, 0.1), (0.1, 0.2)])]}
    mine.closed = {
        1: [
            LoadRound(2.0, [(0.0, 0.05), (0.05, 0.1)], client_seconds=0.5),
            LoadRound(2.0, [(0.0, 0.05), (0.05, 0.1)], errors=1),
        ]
    }
    mine.fixed = {"0.5": [LoadRound(2.0, [(0.0, 0.02), (0.1, 0.13), (0.2, 0.24)], errors=1, rate=15.0)]}
    services = ServiceSection("crossvit_tiny", [1], [0.5], [plain, lit, mine])
    return Report(dict(FACTS), [section], services=[services])


def test_engines_have_medians_and_ratios_taken_round_by_round(report: Report) -> None:
    eager, broken, ours = cells(engine_table(report.sections))
    assert ours["images/s at batch 8"] == "32.0"
    assert ours["times eager, batch 8"] == "6.00 (4.00 to 8.00)"
    assert ours["times ONNX Runtime, batch 8"] == ""
    assert ours["engine"] == "**our engine (openvino int8)**"
    assert ours["p50, p99 ms at batch 1"] == "100.0, 300.0"
    assert eager["ready after, s"] == "2.0"
    assert eager["times eager, batch 8"] == "1.00 (1.00 to 1.00)"
    assert broken["images/s at batch 1"] == "load: no C++ compiler \\| none at all"


def test_services_have_medians_and_the_latencies_of_all_rounds(report: Report) -> None:
    plain, lit, ours = cells(closed_table(report))
    assert (plain["requests/s"], ours["requests/s"]) == ("7.5", "20.0")
    assert ours["times FastAPI + PyTorch"] == "3.00 (2.00 to 4.00)"
    assert (plain["p50 ms"], plain["p99 ms"], ours["p99 ms"]) == ("100", "200", "50")
    assert lit["requests/s"] == "litserve is not installed"
    assert ours["client, cores"] == "0.12"


def test_requests_at_a_fixed_rate_that_got_no_answer_are_told(report: Report) -> None:
    (ours,) = cells(fixed_table(report))
    assert (ours["requests/s sent"], ours["answered"], ours["p50 ms"], ours["p99 ms"]) == ("15.0", "3 of 4", "30", "40")
    assert [row["errors"] for row in cells(memory_table(report))] == ["0", "litserve is not installed", "2"]


def test_a_report_says_on_what_and_with_which_command(report: Report) -> None:
    text = markdown(report)
    for there in (
        "2 cores of Some CPU",
        "torch 2.9",
        "commit abc",
        "`make bench`",
        "timm's module",
        "has random weights",
    ):
        assert there in text


def test_figures_are_drawn_of_what_there_is(report: Report, tmp_path: Path) -> None:
    plot_engines(report.sections, tmp_path / "engines.png")
    plot_services(report.services, tmp_path / "services.png")
    for file in tmp_path.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")


def test_a_summary_has_the_networks_abreast(report: Report) -> None:
    head, engines, services = summary(report).strip().split("\n\n")
    assert "commit abc" in head
    _, broken, ours = cells(engines)
    column = "crossvit_tiny at 224: images/s (times eager)"
    assert ours["engine alone, batch 8"] == "**our engine**"
    assert ours[column] == "32.0 (6.00)"  # 4 and 8 times
    assert broken[column] == ""
    column = "crossvit_tiny: requests/s (times LitServe + PyTorch)"
    assert [row[column] for row in cells(services)] == ["7.5", "", "20.0"]


@pytest.fixture
def compared() -> Section:
    """Two contestants over two rounds; one call of each batch takes as many seconds as it says."""
    compiled, ours = Entry("timm-compile-bf16", "timm-compile-bf16"), Entry("tensorrt-fp16", "tensorrt-fp16")
    compiled.rounds = {8: [Round([0.4], []), Round([0.8], [])]}
    ours.rounds = {1: [Round([0.1, 0.3], []), Round([0.2], [])], 8: [Round([0.2], [0.1]), Round([0.2], [0.1])]}
    return Section("crossvit_tiny", 224, 224, 1.56, [1, 8], "untrained", 2.0, [0.1, 0.3], [compiled, ours])


def of_row(section: Section, entry: Entry) -> dict[str, str]:
    """The row of a contestant on a GPU by its columns."""
    columns = gpu_columns(section.batches)
    (found,) = cells(table(header(columns), [row(columns, section, entry)]))
    return found


def test_ratios_are_taken_round_by_round_from_the_fastest_compiled_contestant(compared: Section) -> None:
    slower = Entry("timm-compile-fp16", "", rounds={8: [Round([1.0], []), Round([1.0], [])]})
    compared.entries.append(slower)
    compiled, ours, _ = compared.entries
    assert fastest_compiled(compared, 8) is compiled
    assert of_row(compared, ours)["times the fastest torch.compile"] == "8: 3.00 (2.00 to 4.00)"


def test_a_row_of_a_gpu_has_medians_and_spreads(compared: Section) -> None:
    found = of_row(compared, compared.entries[1])
    assert found["images/s at batch 8"] == "40.0 (40.0 to 40.0)"
    assert found["on the device alone"] == "8: 80"
    assert found["share of the bf16 peak"] == "62.4 % at 8"
    assert found["p50, p99 ms at batch 1"] == "200.00, 300.00"


def test_what_failed_stands_in_the_row_as_one_line(compared: Section) -> None:
    dead = of_row(compared, Entry("tensorrt-bf16", "tensorrt-bf16", error="load: a | b\nc"))
    assert dead["images/s at batch 1"] == "load: a \\| b c"
    ours = compared.entries[1]
    compared.batches.append(32)
    ours.failed = {32: "out of memory"}
    assert of_row(compared, ours)["images/s at batch 32"] == "out of memory"
    ours.error = "measure: it hung"
    assert of_row(compared, ours)["contestant"] == "tensorrt-fp16 (then: measure: it hung)"


def test_captions_say_whose_weights_are_random_and_whose_are_not(report: Report) -> None:
    report.sections[0].weights = "sha256:0123456789"
    report.facts["weights"] = {"crossvit_18_dagger": "untrained"}
    assert weights_caption(report) == (
        "crossvit_tiny has the weights sha256:0123456; "
        "crossvit_18_dagger has random weights: precision auto keeps float32."
    )
