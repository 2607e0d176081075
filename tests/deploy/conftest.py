"""What the chart makes of each case of values."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from deploy.chart import Manifest, rendered
from tests.support.chart_values import CASES


@cache
def _objects(case: str) -> list[Manifest]:
    return rendered(CASES[case], "crossvit", "vision")


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    """The name of a case."""
    name: str = request.param
    return name


@pytest.fixture
def objects(case: str) -> list[Manifest]:
    """All objects of the case."""
    return _objects(case)


@pytest.fixture
def by_kind(objects: list[Manifest]) -> Mapping[str, Manifest]:
    """The objects of the case by their kinds; of several the first."""
    return {manifest["kind"]: manifest for manifest in reversed(objects)}


@pytest.fixture
def pod(by_kind: Mapping[str, Manifest]) -> dict[str, Any]:
    """The specification of the service's pods."""
    found: dict[str, Any] = by_kind["Deployment"]["spec"]["template"]["spec"]
    return found


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    """The service's container."""
    (only,) = pod["containers"]
    found: dict[str, Any] = only
    return found


@pytest.fixture
def environment(by_kind: Mapping[str, Manifest], container: dict[str, Any]) -> Mapping[str, str]:
    """The variables of the service's container."""
    config = by_kind["ConfigMap"]
    assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    found: Mapping[str, str] = config["data"]
    return found
