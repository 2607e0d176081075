"""The rate at which refusals are sent: a client that asks again after each one is slowed by waiting for it."""

import asyncio
import math
from collections import deque
from collections.abc import Callable

REFUSALS_PER_SECOND = 200.0
LONGEST_WAIT_SECONDS = 2.0
TICK_SECONDS = 0.05  # refusals that wait are sent together: waking the event loop costs more than a refusal


class RefusalPacer:
    """Gives turns in the order of the requests, `rate` a second; one that comes alone does not wait.

    No turn is later than `longest` seconds and a tick: beyond as many as wait so long, turns come faster.
    """

    def __init__(self, rate: float = REFUSALS_PER_SECOND, longest: float = LONGEST_WAIT_SECONDS) -> None:
        self._interval = 1 / rate
        self._longest = longest
        self._next = 0.0  # the time of the next turn, on the clock of the event loop
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()  # with their turns
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self, refuse: Callable[[], None]) -> None:
        """Call `refuse` when its turn comes, never before the event loop's next iteration."""
        now = asyncio.get_running_loop().time()
        turn = max(now, min(self._next, now + self._longest))
        self._next = turn + self._interval
        self._waiting.append((turn, refuse))
        if self._timer is None:
            self._set_timer(turn if turn == now else _tick_after(turn))

    def _set_timer(self, at: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(at, self._refuse_due)

    def _refuse_due(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting.popleft()[1]()
        if self._waiting and self._timer is None:
            self._set_timer(_tick_after(self._waiting[0][0]))


def _tick_after(turn: float) -> float:
    return math.ceil(turn / TICK_SECONDS) * TICK_SECONDS
