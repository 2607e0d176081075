"""Agreements with float32 that were measured nowhere."""

from typing import Any

from bundle.agreement import Agreement

GOOD = Agreement(
    images=200,
    top1=0.99,
    clear=0.9,
    worst=0.1,
    scale=3.5,
    distance=0.02,
    score_distance=0.004,
    loss=0.0001,
    loss_limit=0.0002,
)


def agreement(**changes: Any) -> Agreement:
    """One that is good enough by itself, but for `changes`."""
    return Agreement(**GOOD.model_dump() | changes)
