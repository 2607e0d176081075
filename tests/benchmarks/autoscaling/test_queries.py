"""The rendered queries and alerts, by Prometheus itself, on what a real service's metrics were under load."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from benchmarks.autoscaling.horizontal_autoscaler import autoscaler_of
from benchmarks.autoscaling.simulate import scaled_object
from benchmarks.autoscaling.simulated_service import WAIT_BUCKETS, quantile
from deploy.chart import CHART, rendered
from tests.support.prometheus import PROMETHEUS, PROMTOOL, prometheus_of, values_of

ROOT = CHART.parents[2]
WINDOW_SECONDS = 10  # the recording has a scrape each second, instead of each 15
LABELS = 'instance="10.0.0.1:8000",namespace="default",pod="crossvit-1",service="crossvit"'  # of a ServiceMonitor
OTHER = LABELS.replace("crossvit", "other")  # another release in the namespace


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if not (PROMETHEUS and PROMTOOL):
        (pytest.fail if os.environ.get("TESTS_COMPLETE") else pytest.skip)(
            "Debian's package prometheus is not installed"
        )


@pytest.fixture(scope="module")
def server(recording: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with the recorded series, and the same of another release."""
    series = {
        f"{name[:-1]},{labels}}}".replace("{,", "{"): values
        for name, values in recording["series"].items()
        for labels in (LABELS, OTHER)
    }
    with prometheus_of(series, recording["times"], tmp_path_factory.mktemp("prometheus")) as client:
        yield client


@pytest.fixture(scope="module")
def asked(server: httpx.Client, recording: dict[str, Any]) -> dict[str, list[float | None]]:
    """The value of each trigger at each scrape, by its name."""
    triggers = scaled_object(window=f"{WINDOW_SECONDS}s")["spec"]["triggers"]
    return {each["name"]: values_of(server, each["metadata"]["query"], recording["times"]) for each in triggers}


def recorded(recording: dict[str, Any], metric: str) -> np.ndarray:
    """(series, times), in the order of the labels `le` where there are some; NaN where there is no sample."""

    def bound(name: str) -> float:
        return float(name.partition('le="')[2].partition('"')[0] or 0)

    names = sorted((name for name in recording["series"] if name.startswith(f"{metric}{{")), key=bound)
    return np.array([recording["series"][name] for name in names], dtype=float)


def test_waiting_images_are_those_of_this_service(recording: dict[str, Any], asked: dict[str, list[Any]]) -> None:
    assert asked["waiting-images"] == recorded(recording, "crossvit_queue_images")[0].tolist()


def test_busy_engines_are_engine_seconds_in_a_second(recording: dict[str, Any], asked: dict[str, list[Any]]) -> None:
    seconds, times = recorded(recording, "crossvit_inference_seconds_sum")[0], np.array(recording["times"])
    first = np.searchsorted(times, times - WINDOW_SECONDS)
    for at in range(WINDOW_SECONDS + 1, len(times)):
        mean = (seconds[at] - seconds[first[at]]) / (times[at] - times[first[at]])
        assert asked["busy-engines"][at] == pytest.approx(mean, rel=0.12, abs=0.01)  # Prometheus extrapolates
    assert max(asked["busy-engines"][WINDOW_SECONDS:]) == pytest.approx(1, abs=0.05)


def test_busy_decoders_are_their_share_of_the_time(recording: dict[str, Any], asked: dict[str, list[Any]]) -> None:
    seconds, times = recorded(recording, "crossvit_decode_seconds_sum")[0], np.array(recording["times"])
    decoders = recorded(recording, "crossvit_decoders")[0]
    assert decoders.min() == decoders.max() > 1
    first = np.searchsorted(times, times - WINDOW_SECONDS)
    for at in range(WINDOW_SECONDS + 1, len(times)):
        mean = (seconds[at] - seconds[first[at]]) / (times[at] - times[first[at]])
        assert asked["busy-decoders"][at] == pytest.approx(mean / decoders[at], rel=0.12, abs=0.01)
    assert asked["busy-decoders"][0] == 0
    assert max(asked["busy-decoders"]) > 0


def test_p95_is_that_of_the_waits_and_nothing_without_any(
    recording: dict[str, Any], asked: dict[str, list[Any]]
) -> None:
    buckets, times = recorded(recording, "crossvit_queue_seconds_bucket"), np.array(recording["times"])
    assert len(buckets) == len(WAIT_BUCKETS)
    first = np.searchsorted(times, times - WINDOW_SECONDS)
    for at in range(WINDOW_SECONDS + 1, len(times)):
        since = np.nan_to_num(buckets[:, at]) - np.nan_to_num(buckets[:, first[at]])
        assert asked["wait-p95"][at] == pytest.approx(quantile(0.95, since), rel=0.3, abs=0.05)
    assert asked["wait-p95"][0] == 0
    assert max(asked["wait-p95"]) > 2


def test_a_replica_that_is_not_ready_does_not_count(
    tmp_path: Path,
) -> None:
    (query,) = [each["metadata"]["query"] for each in scaled_object()["spec"]["triggers"] if each["name"] == "wait-p95"]
    count = query.partition(" * ")[0]
    ready = "crossvit_model_ready"
    times = [0.0, 15.0]  # a minute before they are asked for: the query has an offset
    series: dict[str, list[float | None]] = {
        f'{ready}{{model="m",{LABELS}}}': [1, 1],
        f'{ready}{{model="n",{LABELS}}}': [1, 1],  # the same replica
        f'{ready}{{model="m",{LABELS.replace("10.0.0.1", "10.0.0.2")}}}': [0, 1],
    }
    with prometheus_of(series, times, tmp_path) as client:
        assert values_of(client, count, [60.0, 75.0]) == [1, 2]


def test_the_decision_on_the_recording_is_up_within_one_scrape_and_then_holds(
    recording: dict[str, Any], asked: dict[str, list[Any]]
) -> None:
    """One replica was recorded, so it goes on being overloaded; here only what is decided of it is looked at."""
    manifest = scaled_object(window=f"{WINDOW_SECONDS}s")
    autoscaler, replicas, decided = autoscaler_of(manifest), 1, []
    for index, at in enumerate(recording["times"]):
        metrics = {name: values[index] or 0.0 for name, values in asked.items()}
        replicas = autoscaler.decide(at, replicas, metrics)
        decided.append(replicas)
    waiting = recorded(recording, "crossvit_queue_images")[0]
    overloaded = int(np.argmax(waiting > autoscaler.targets["waiting-images"]))
    assert decided[overloaded - 1] == 1
    assert decided[overloaded] > 1
    assert np.all(np.diff(decided) >= 0)


def promtool(*arguments: str) -> str:
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_alerts_of_the_chart_are_rules_and_raise_what_those_of_the_compose_file_do(tmp_path: Path) -> None:
    (rule,) = [
        manifest
        for manifest in rendered({"monitoring": {"rules": {"enabled": True}}})
        if manifest["kind"] == "PrometheusRule"
    ]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rule["spec"]).replace(',namespace="default"', ""))
    tests = (ROOT / "tests" / "docker" / "alerts.yml").read_text()
    (tmp_path / "test.yml").write_text(tests)
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "alerts.yml"))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "test.yml"))
