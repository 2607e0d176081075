"""Waiting for what happens elsewhere: in another process, thread or task."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T | None], seconds: float = 30, poll_seconds: float = 0.005) -> T:
    """What `condition` returns once that is true; TimeoutError after `seconds`. The event loop runs meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            while not (found := condition()):  # noqa: ASYNC110, another process or thread changes it
                await asyncio.sleep(poll_seconds)
    except TimeoutError:
        raise TimeoutError(f"still not so after {seconds:g} s") from None
    return found


def wait_until(condition: Callable[[], T | None], seconds: float = 30, poll_seconds: float = 0.01) -> T:
    """What `condition` returns once that is true; TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {seconds:g} s")
        time.sleep(poll_seconds)
    return found
