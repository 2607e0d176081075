"""Brown-out: under load, answers come from the cheaper step of a cascade, instead of refusals.

The ladder has a rung for each threshold, in seconds that the images which wait are expected to take:

    0  every request is answered as it asks
    1  requests for a cascade are answered by its first step alone
    2  so are requests that name no resolution, and would have had the second step

Beyond that requests are refused, as without brown-out.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from app.serving.cascade import Cascade

_LOWER = 0.5  # of a rung's threshold: it is left only below that
_HOLD_SECONDS = 2.0  # for which it has to be below


@dataclass
class _State:
    rung: int = 0
    high: float = 0.0  # when the wait was last too long to leave the rung


class BrownOut:
    """The rung of each cascade. It rises at once, and falls by one after the wait was short for a while (hysteresis).

    Args:
        thresholds: seconds from which the rungs 1, 2 hold, ascending.
        clock: in seconds.
    """

    def __init__(self, thresholds: Sequence[float], clock: Callable[[], float] = time.perf_counter) -> None:
        self._thresholds = thresholds
        self._clock = clock
        self._states: dict[str, _State] = {}

    def rung(self, cascade: Cascade) -> int:
        """The rung now, by the longer one of both steps' queues."""
        steps = (cascade.first, cascade.second)
        return self.at(cascade.first.model.bundle.name, max(step.model.expected_seconds for step in steps))

    def at(self, name: str, seconds: float) -> int:
        """The rung of the cascade that begins with the model `name`, whose images take `seconds`."""
        state, now = self._states.setdefault(name, _State()), self._clock()
        reached = sum(seconds >= threshold for threshold in self._thresholds)
        if reached >= state.rung:
            state.rung, state.high = reached, now
        elif seconds >= _LOWER * self._thresholds[state.rung - 1]:
            state.high = now
        elif now - state.high >= _HOLD_SECONDS:
            state.rung, state.high = state.rung - 1, now
        return state.rung

    @property
    def rungs(self) -> Iterable[tuple[str, int]]:
        """Each cascade's rung, by the name of the model that it begins with."""
        return [(name, state.rung) for name, state in self._states.items()]
