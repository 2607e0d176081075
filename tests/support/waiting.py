"""Waiting for what happens elsewhere: in another process, thread or task."""

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return when `condition` holds; TimeoutError after `seconds`. The event loop runs meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110, another process or thread changes it
            await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], object], seconds: float = 30, poll_seconds: float = 0.01) -> None:
    """Return when `condition` holds; TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {seconds:g} s")
        time.sleep(poll_seconds)
