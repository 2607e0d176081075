"""Messages that arrive: few at a time, since each may take the memory of the largest until its size is known."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.errors import Overloaded, SlowClient

Arrived = TypeVar("Arrived")

_LEAST_SECONDS = 1.0  # that a message may take, however many wait


class ArrivingMessages:
    """Lets `most` messages arrive at once; the others wait for their turn.

    For each that waits, the one that has been arriving longest has to be complete soon after its start.

    Args:
        most: messages that arrive at once.
        seconds: within which a message must arrive.
        least_seconds: that it has, however many wait.
    """

    def __init__(self, most: int, seconds: float, least_seconds: float = _LEAST_SECONDS) -> None:
        self._least_seconds = least_seconds
        self._places = asyncio.Semaphore(most)
        self._seconds = seconds
        self._arriving: dict[asyncio.Timeout, float] = {}  # those that were not hurried, by their start

    async def read(self, receive: Callable[[], Awaitable[Arrived]]) -> Arrived:
        """What `receive` gives. Raises SlowClient, or Overloaded if it had to make room."""
        if self._places.locked():
            self._hurry_the_oldest()
        async with self._places:
            timeout = asyncio.timeout(self._seconds)
            started = asyncio.get_running_loop().time()
            try:
                async with timeout:
                    self._arriving[timeout] = started
                    return await receive()
            except TimeoutError as err:
                if timeout not in self._arriving:
                    raise Overloaded("the message was slow while others waited", retry_after=1) from err
                seconds = (timeout.when() or started) - started
                raise SlowClient(f"the message did not arrive within {max(_LEAST_SECONDS, seconds):.0f} s") from err
            finally:
                self._arriving.pop(timeout, None)

    def _hurry_the_oldest(self) -> None:
        oldest = next(iter(self._arriving), None)
        if oldest is not None:
            started = self._arriving.pop(oldest)
            oldest.reschedule(max(started + self._least_seconds, asyncio.get_running_loop().time()))
