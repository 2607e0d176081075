"""The number of generated cases, and what the next request after them is."""

import os

from hypothesis import HealthCheck, settings

from tests.support.pictures import encoded, scene

JPEG = encoded(scene(300, 200), "JPEG")


def case_count(full: int) -> int:
    """The share of `full` that FUZZ in the environment asks for: 0.25 by default, 1 in `make test-all`."""
    return max(1, round(full * float(os.environ.get("FUZZ", "0.25"))))


def cases(full: int) -> settings:
    """hypothesis with `case_count(full)` cases, the same ones every time."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=case_count(full), deadline=None, derandomize=True, database=None, suppress_health_check=slow
    )
