"""Prometheus as the compose file configures it, and every query of the dashboard asked of it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.containers import ROOT, Compose
from tests.support.service_checks import PHOTOS, check_bad_images, check_overload
from tests.support.waiting import wait_until

DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "crossvit.json").read_text())
VARIABLES = {"$model": ".*", "$instance": ".*", "$__rate_interval": "1m"}
ALERTS = Path(__file__).parent / "alerts.yml"


def queries() -> Iterator[Any]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']}, {target['refId']}")


@pytest.fixture(scope="module")
def prometheus(service: Compose) -> Iterator[httpx.Client]:
    """Prometheus, after the service was busy, overloaded and sent bad images between two scrapes at least."""
    with httpx.Client(base_url=f"http://127.0.0.1:{service.environment['PROMETHEUS_PORT']}", timeout=30) as client:
        wait_until(lambda: _scraped(client), poll_seconds=0.5)
        check_overload(service.url)
        check_bad_images(service.url)
        for photo in PHOTOS:
            httpx.post(f"{service.url}/classify", files={"file": photo.read_bytes()}, timeout=30)
        _wait_for_scrapes(client, 2)  # a rate has two samples
        yield client


def _scraped(client: httpx.Client) -> bool:
    try:
        return bool(ask(client, "crossvit_requests_total") and ask(client, 'up{job="crossvit"} == 1'))
    except httpx.TransportError:
        return False  # it is starting


def _wait_for_scrapes(client: httpx.Client, count: int) -> None:
    """Return when Prometheus has scraped the service `count` times more."""
    scrapes: set[float] = set()  # by their time

    def enough() -> bool:
        scrapes.update(ask(client, 'max(timestamp(up{job="crossvit"}))'))
        return len(scrapes) > count  # the first one was before

    wait_until(enough, poll_seconds=0.2)


def ask(client: httpx.Client, query: str) -> list[float]:
    """The values that `query` has now."""
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return [float(series["value"][1]) for series in answer["data"]["result"]]


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_of_the_dashboard_has_data(prometheus: httpx.Client, query: str) -> None:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    values = ask(prometheus, query)
    assert values
    assert not all(map(math.isnan, values))


def test_the_configuration_and_the_alerts_are_what_prometheus_expects(service: Compose, project: Path) -> None:
    (project / "docker" / "prometheus" / "test.yml").write_text(ALERTS.read_text())
    assert "SUCCESS" in service.execute("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    assert "SUCCESS" in service.execute("prometheus", "promtool", "test", "rules", "/etc/prometheus/test.yml")


def test_prometheus_has_the_alerts_and_none_fires_for_a_service_that_is_well(prometheus: httpx.Client) -> None:
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert len(rules) == (ROOT / "docker" / "prometheus" / "alerts.yml").read_text().count("- alert:")
    assert all(rule["health"] == "ok" for rule in rules.values())
    assert [name for name, rule in rules.items() if rule["state"] == "firing"] == []


def test_the_dashboard_and_its_source_of_data_fit(service: Compose) -> None:
    source = (ROOT / "docker" / "grafana" / "datasources" / "prometheus.yml").read_text()
    uids = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    (uid,) = uids
    assert f"uid: {uid}" in source
    assert "url: http://prometheus:9090" in source
    assert service.inspect("prometheus", ".State.Running") == "true"
