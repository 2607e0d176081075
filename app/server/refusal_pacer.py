"""The rate at which refusals are sent: a client that asks again after each one is slowed by waiting for it."""

import asyncio
from collections.abc import Callable

REFUSALS_PER_SECOND = 200.0
LONGEST_WAIT_SECONDS = 2.0


class RefusalPacer:
    """Gives turns in the order of the requests, `rate` a second, so that a lone refusal does not wait.

    No turn is later than `longest` seconds: beyond that many refusals wait, turns come faster.
    """

    def __init__(self, rate: float = REFUSALS_PER_SECOND, longest: float = LONGEST_WAIT_SECONDS) -> None:
        self._interval = 1 / rate
        self._longest = longest
        self._next = 0.0  # the time of the next turn, on the clock of the event loop

    def schedule(self, refuse: Callable[[], None]) -> None:
        """Call `refuse` when its turn comes, never before the event loop's next iteration."""
        asyncio.get_running_loop().call_at(self._take(), refuse)

    async def wait(self) -> None:
        """Return when the caller's turn comes."""
        await asyncio.sleep(self._take() - asyncio.get_running_loop().time())

    def _take(self) -> float:
        now = asyncio.get_running_loop().time()
        turn = max(now, min(self._next, now + self._longest))
        self._next = turn + self._interval
        return turn
