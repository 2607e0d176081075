"""The recording of a real service under a load that rises and falls."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def recording() -> dict[str, Any]:
    """What benchmarks.autoscaling.record_series wrote."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "recorded_series.json").read_text())
    return found
