from pathlib import Path

import pytest

from benchmarks.contest.plots import plot_engines, plot_services
from benchmarks.contest.results import Calls, Entry, LoadRound, Results, Service
from benchmarks.contest.tables import engine_table, load_table, markdown, memory_table, summary, weights_caption

RUN = {
    "command": "make bench",
    "cores": 2,
    "cpu": "Some CPU (family 6, avx2)",
    "driver": "",
    "python": "3.11",
    "versions": {"torch": "2.9"},
    "commit": "abc",
    "began": "2026-01-01T00:00:00Z",
    "load": 0.1,
    "rounds": 2,
    "seconds": 0.6,
    "photographs": 8,
    "weights": {"crossvit_tiny": "untrained"},
}
ENGINE = ("crossvit_tiny", 224)


def cells(table: str) -> list[dict[str, str]]:
    """The rows by their columns."""
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture
def results() -> Results:
    """Two rounds: a call of the eager contestant takes 1 s, then 2; one of ours a quarter of a second."""
    entries = [
        Entry(*ENGINE, "eager", "PyTorch", load_seconds=1.0, first_seconds=1.0, agreement=1.0),
        Entry(*ENGINE, "compile", "torch.compile", error="load: no C++ compiler | none\nat all"),
        Entry(
            *ENGINE, "ours", "our engine", note="openvino int8", memory_mb=300.4, agreement=0.995, worst_difference=0.02
        ),
    ]
    calls = [
        Calls(*ENGINE, "eager", 8, 0, [1.0]),
        Calls(*ENGINE, "eager", 8, 1, [2.0]),
        Calls(*ENGINE, "ours", 1, 0, [0.1, 0.3]),
        Calls(*ENGINE, "ours", 8, 0, [0.25]),
        Calls(*ENGINE, "ours", 8, 1, [0.25]),
    ]
    services = [
        Service("crossvit_tiny", "plain", "FastAPI", proportional_mb=100.0, resident_mb=200.0),
        Service("crossvit_tiny", "litserve-pytorch", "LitServe", error="ended with status 1"),
        Service("crossvit_tiny", "ours", "this service", proportional_mb=400.0, resident_mb=500.0),
    ]
    of_plain, of_ours = ("crossvit_tiny", "plain"), ("crossvit_tiny", "ours")
    loads = [
        LoadRound(*of_plain, 1, None, 0, 0.4, [200.0, 200.0], 0, 0.1),
        LoadRound(*of_plain, 1, None, 1, 0.2, [100.0, 100.0], 0, 0.1),
        LoadRound(*of_ours, 1, None, 0, 0.1, [50.0, 50.0], 0, 0.25),
        LoadRound(*of_ours, 1, None, 1, 0.1, [50.0, 50.0], 1, 0.01),
        LoadRound(*of_ours, None, 15.0, 0, 0.2, [20.0, 30.0, 40.0], 1, 0.1),
    ]
    return Results([dict(RUN)], entries, calls, services, loads)


def test_engines_have_medians_and_ratios_taken_round_by_round(results: Results) -> None:
    eager, broken, ours = cells(engine_table(results))
    assert ours["images/s at batch 8"] == "32.0"
    assert ours["times eager, batch 8"] == "6.00 (4.00 to 8.00)"
    assert "times ONNX Runtime, batch 8" not in ours
    assert ours["engine"] == "**our engine (openvino int8)**"
    assert ours["p50, p99 ms at batch 1"] == "300.0, 300.0"
    assert (ours["best class as in f32"], ours["worst difference, of the largest logit"]) == ("99.5%", "2.0%")
    assert (ours["memory, MB"], eager["memory, MB"], eager["ready after, s"]) == ("300", "", "2.0")
    assert eager["times eager, batch 8"] == "1.00 (1.00 to 1.00)"
    assert broken["engine"] == "torch.compile (load: no C++ compiler \\| none at all)"
    assert broken["images/s at batch 8"] == ""


def test_ratios_to_torch_compile_are_to_the_fastest_one_of_the_round(results: Results) -> None:
    for name, seconds in (("compile", [0.5, 4.0]), ("compile-bf16", [1.0, 1.0])):
        results.calls += [Calls(*ENGINE, name, 8, each, [taken]) for each, taken in enumerate(seconds)]
    ours = cells(engine_table(results))[-1]
    assert ours["times the fastest torch.compile, batch 8"] == "3.00 (2.00 to 4.00)"


def test_the_share_of_a_gpus_peak_counts_two_operations_for_each_multiply_accumulate(results: Results) -> None:
    assert not any("peak" in column for column in cells(engine_table(results))[0])
    results.runs[0]["gpu"] = "Some GPU"
    for entry in results.entries:
        entry.peak = 0.2
    # 32 images/s of 1.56 GMAC are 0.1 TFLOP/s, beside a peak of 0.2.
    assert cells(engine_table(results))[-1]["share of the bf16 peak"] == "49.9%"


def test_services_have_medians_and_the_latencies_of_all_rounds(results: Results) -> None:
    plain, ours = cells(load_table(results, "clients"))
    assert (plain["requests/s"], ours["requests/s"]) == ("7.5", "20.0")
    assert ours["times FastAPI + PyTorch"] == "3.00 (2.00 to 4.00)"
    assert (plain["p50, p99 ms"], ours["p50, p99 ms"]) == ("200.0, 200.0", "50.0, 50.0")
    assert (ours["answered"], ours["client, cores"]) == ("4 of 5", "0.13")


def test_requests_at_a_fixed_rate_that_got_no_answer_are_told(results: Results) -> None:
    (ours,) = cells(load_table(results, "rate"))
    assert (ours["requests/s sent"], ours["answered"], ours["p50, p99 ms"]) == ("15.0", "3 of 4", "30.0, 40.0")
    assert [row["service"] for row in cells(memory_table(results))] == [
        "FastAPI",
        "LitServe (ended with status 1)",
        "**this service**",
    ]


def test_a_report_says_on_what_with_which_command_and_weights(results: Results) -> None:
    text = markdown(results)
    for there in ("2 cores of Some CPU", "torch 2.9", "commit abc", "`make bench`", "has random weights"):
        assert there in text
    results.runs.append(RUN | {"weights": {"crossvit_18_dagger": "sha256:0123456789"}})
    assert weights_caption(results) == (
        "crossvit_tiny has random weights: precision auto keeps float32. "
        "crossvit_18_dagger has the weights sha256:0123456."
    )


def test_the_summary_has_one_row_for_each_contestant_and_its_ratio(results: Results) -> None:
    _, engines, services = summary(results).split("\n\n")
    ours = cells(engines)[-1]
    assert ours["engine alone, batch 8"] == "**our engine**"
    assert ours["crossvit_tiny at 224: images/s (times eager)"] == "32.0 (6.00)"
    assert [row["crossvit_tiny: requests/s (times LitServe + PyTorch)"] for row in cells(services)] == [
        "7.5",
        "",
        "20.0",
    ]


def test_figures_are_drawn_and_the_same_results_give_the_same_file(results: Results, tmp_path: Path) -> None:
    for plot in (plot_engines, plot_services):
        for name in ("a.png", "b.png"):
            plot(results, tmp_path / name)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_results_are_read_as_they_were_saved(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    assert Results.read(tmp_path / "nothing.json") == Results()


def test_a_later_run_takes_the_place_of_an_earlier_one_of_the_same(results: Results) -> None:
    results.forget("crossvit_tiny", ["ours"], 224)
    assert {entry.contestant for entry in results.entries} == {"eager", "compile"}
    assert {calls.contestant for calls in results.calls} == {"eager"}
    results.forget("crossvit_tiny", ["plain", "litserve-pytorch"])
    assert {service.service for service in results.services} == {load.service for load in results.loads} == {"ours"}
    results.forget("crossvit_9_dagger", ["ours", "eager"], 224)
    assert len(results.entries) == 2


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"services": [{"variant": "crossvit_tiny"}]}')
    with pytest.raises(ValueError, match="another version; remove it"):
        Results.read(tmp_path / "results.json")
