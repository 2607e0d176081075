"""The number of instances that auto takes."""

import logging
from pathlib import Path

import pytest

from app.configuration.settings import Settings
from app.instances import count_measurement, instance_count
from app.instances.count_measurement import best_count
from app.instances.instance_count import candidate_counts, chosen_count, fastest_count
from app.machine.cpus import usable_cpus


def test_a_small_machine_has_one_instance_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_count, "usable_cpus", lambda: 7)
    assert chosen_count(["--no-such-option"]) == 1


def test_what_cannot_be_measured_is_one_instance(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(instance_count, "usable_cpus", lambda: 8)
    assert chosen_count(["--no-such-option"]) == 1
    assert "could not be measured" in caplog.text


def test_candidates_have_four_cpus_each() -> None:
    assert candidate_counts(2) == [1]
    assert candidate_counts(8) == [1, 2]
    assert candidate_counts(64) == [1, 2, 4, 8, 16]


def test_the_fewer_instances_are_taken_of_those_that_are_as_fast() -> None:
    assert fastest_count({1: 100, 2: 196, 4: 205, 8: 190}) == 2
    assert fastest_count({1: 100, 2: 90}) == 1


def measured_options(bundle: Path) -> list[str]:
    """Options whose measurement is remembered for both tests that need one."""
    return ["--bundle", str(bundle), "--engine", "onnxruntime", "--precision", "f32", "--max-batch", "3"]


def test_instances_are_measured_side_by_side_once(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options = measured_options(bundle)
    settings = Settings.from_command_line(options)
    best = best_count(settings, options, [1, 2])
    figures = [message for message in caplog.messages if "images/s together, onnxruntime" in message]
    assert [figure.partition(" ")[0] for figure in figures] == ["1", "2"]
    assert best in (1, 2)
    assert best_count(settings, ["--no-such-option"], [1, 2]) == best


def test_a_process_of_its_own_measures_and_prints_the_number(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_count, "usable_cpus", lambda: 8)  # that process sees the machine as it is
    assert chosen_count(measured_options(bundle)) in candidate_counts(usable_cpus())


def test_instances_share_a_gpu_by_their_cpus(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_measurement, "measured_rate", lambda _count, _arguments: ("tensorrt", 1000.0))
    monkeypatch.setattr(count_measurement, "usable_cpus", lambda: 26)
    assert best_count(Settings(bundle=bundle, max_batch=5), [], [1, 2, 4]) == 6
