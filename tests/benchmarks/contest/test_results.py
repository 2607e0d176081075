import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contest.results import Entry, LoadRound, Report, Round, Section, agreement, centile


def test_a_round_counts_the_images_of_all_its_calls() -> None:
    assert Round([0.5, 0.5, 1.0], []).rate(8) == 12
    assert Round([1.0], []).device_rate(8) is None
    assert Round([1.0], [0.5]).device_rate(8) == 16


def test_the_share_of_the_peak_counts_two_operations_for_each_multiply_accumulate() -> None:
    section = Section("crossvit_tiny", 224, 224, 1.56, [1, 8], "untrained", 2.0, [0.1, 0.3])
    # 40 images/s of 3.12 GFLOP are 0.1248 TFLOP/s, beside a peak of 0.2.
    assert section.share_of_peak(40) == pytest.approx(0.624)


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_a_centile_is_a_value_that_was_seen(percent: int, value: int) -> None:
    assert centile(list(range(100, 0, -1)), percent) == value


def test_agreement_is_the_share_of_the_same_best_classes() -> None:
    expected = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert agreement(expected, np.array([[0.0, 1.5], [0.0, 1.0]])) == (0.5, 1.0)


def answers(*done: float) -> list[tuple[float, float]]:
    return [(0.0, each) for each in done]


@pytest.mark.parametrize(
    ("clients", "done", "rate"),
    [
        (4, [1.0, 1.001, 2.0, 2.001, 3.0, 3.001], 2.0),
        (4, [1.0, 1.019, 1.03, 1.045, 2.0, 2.03, 2.031, 2.045], 4.0),  # smeared batches
        (1, [0.1, 0.2, 0.3], 10.0),
        (16, [each / 200 for each in range(200)], 200.0),
        (4, [1.0, 2.0, 3.0, 3.95, 3.96, 3.97], 1.0),  # the last answers come when the others no longer ask
    ],
)
def test_throughput_is_that_between_the_first_batch_and_the_last(clients: int, done: list[float], rate: float) -> None:
    assert LoadRound(3.9, answers(*done)).throughput(clients) == pytest.approx(rate)


def test_a_round_that_saw_one_batch_or_none_counts_over_all_its_time() -> None:
    assert LoadRound(4.0, answers(1.0, 1.001)).throughput(2) == 0.5
    assert LoadRound(4.0, answers(5.0)).throughput(1) == 0.2
    assert LoadRound(4.0, []).throughput(2) == 0


def test_latency_counts_from_when_a_request_was_due() -> None:
    assert LoadRound(1.0, [(0.25, 0.5), (0.5, 1.5)], rate=4.0).latencies == [250, 1000]


def test_a_report_is_saved_as_json(tmp_path: Path) -> None:
    report = Report({"command": "make bench"}, [Section("crossvit_tiny", 224, 224, 1.56, [1], "untrained")])
    report.sections[0].entries.append(Entry("eager", "PyTorch", rounds={1: [Round([0.5], [])]}))
    report.save(tmp_path / "results.json")
    (section,) = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert section["entries"][0]["rounds"] == {"1": [{"seconds": [0.5], "device_seconds": []}]}
