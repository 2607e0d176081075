"""Calls that wait for their clients: a stop of the port ends them, since they would hold it up."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from app.errors import NotReady

Result = TypeVar("Result")


class IdleCalls:
    """The waits that end early when the port stops."""

    def __init__(self) -> None:
        self._waits: dict[asyncio.Timeout, float] = {}

    async def wait(self, result: Awaitable[Result], seconds: float = 0.0) -> Result:
        """What `result` gives. Raises NotReady if that is not there `seconds` after the port began to stop."""
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self._waits[timeout] = seconds
                return await result
        except TimeoutError as err:
            if not timeout.expired():
                raise
            raise NotReady("the service, or this instance of it, is stopping: connect again", retry_after=1) from err
        finally:
            self._waits.pop(timeout, None)

    def end_all(self) -> None:
        """The port stops."""
        now = asyncio.get_running_loop().time()
        for timeout, seconds in self._waits.items():
            timeout.reschedule(now + seconds)
