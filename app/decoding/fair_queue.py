"""A queue per caller; items have their turns so that every caller gets the same time.

Items of BACKGROUND_CALLER have theirs while no others wait, and no expected time counts them.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

TurnItem = TypeVar("TurnItem")

BACKGROUND_CALLER = "in the background"  # keys and addresses are other names

_EMA_DECAY = 0.8  # of the measured seconds per item


@dataclass(eq=False)
class Turn(Generic[TurnItem]):
    """An item whose turn has come; call `FairQueue.over` when it is done."""

    caller: str
    item: TurnItem
    expected: float  # seconds that are charged until the item is measured
    started: float = field(default_factory=time.perf_counter)


@dataclass(eq=False)
class _Caller(Generic[TurnItem]):
    waiting: deque[TurnItem] = field(default_factory=deque)
    turns: set[Turn[TurnItem]] = field(default_factory=set)
    balance: float = 0.0  # seconds by which it has had less than its share
    mean: float | None = None  # measured seconds per item
    latest: int = 0  # number of its latest turn

    @property
    def active(self) -> bool:
        return bool(self.waiting or self.turns)


class FairQueue(Generic[TurnItem]):
    """Items of one caller have their turns in order; among callers, the one that has had the least time goes first.

    The time of an item is charged to its caller and credited in equal parts to all callers that wait or have a turn, as
    in generalized processor sharing (Parekh and Gallager 1993). Until it is measured it counts as its caller's mean. A
    caller that returns has no credit left, but its debt is kept while others are active. BACKGROUND_CALLER has no
    share: it neither pays nor is credited.
    """

    def __init__(self) -> None:
        self._callers: dict[str, _Caller[TurnItem]] = {}
        self._mean = 0.0  # seconds per item of any caller
        self._turns = 0

    def put(self, caller: str, item: TurnItem) -> None:
        self._callers.setdefault(caller, _Caller()).waiting.append(item)

    def take(self) -> Turn[TurnItem] | None:
        """The next turn, or None if nothing waits."""
        name, caller = max(
            ((name, caller) for name, caller in self._callers.items() if caller.waiting),
            key=lambda pair: (
                pair[0] != BACKGROUND_CALLER,
                round(pair[1].balance, 6),
                -len(pair[1].turns),
                -pair[1].latest,
            ),
            default=(None, None),
        )
        if name is None or caller is None:
            return None
        self._turns += 1
        caller.latest = self._turns
        turn = Turn(name, caller.waiting.popleft(), self._expected(caller))
        caller.turns.add(turn)
        self._charge(name, turn.expected)
        return turn

    def over(self, turn: Turn[TurnItem], seconds: float) -> None:
        """The turn has ended, and took `seconds`."""
        caller = self._callers[turn.caller]
        self._charge(turn.caller, seconds - turn.expected)
        caller.mean = _averaged(caller.mean, seconds)
        if turn.caller != BACKGROUND_CALLER:
            self._mean = _averaged(self._mean or None, seconds)
        caller.turns.remove(turn)
        self._forget()

    def drop(self, turn: Turn[TurnItem]) -> None:
        """The turn was not used, and its item is not needed any more."""
        caller = self._callers[turn.caller]
        self._charge(turn.caller, -turn.expected)
        caller.turns.remove(turn)
        self._forget()

    def give_back(self, turn: Turn[TurnItem]) -> None:
        """The turn could not be used: its item gets its caller's next turn."""
        self._callers[turn.caller].waiting.appendleft(turn.item)
        self.drop(turn)

    def discard(self, caller: str, item: TurnItem) -> None:
        """Remove `item`, if it still waits."""
        queue = self._callers.get(caller)
        if queue is not None and item in queue.waiting:
            queue.waiting.remove(item)
            self._forget()

    def clear(self) -> list[TurnItem]:
        """Remove all waiting items and return them."""
        waiting = [item for caller in self._callers.values() for item in caller.waiting]
        for caller in self._callers.values():
            caller.waiting.clear()
        self._forget()
        return waiting

    def seconds(self) -> float:
        """The expected time of all items that wait or have their turn, one after the other; not of those behind all."""
        now, total = time.perf_counter(), 0.0
        for caller in self._foreground():
            spent = [now - turn.started for turn in caller.turns]
            per_item = max([self._expected(caller), *spent])
            total += len(caller.waiting) * per_item + sum(max(0.0, per_item - passed) for passed in spent)
        return total

    def _expected(self, caller: _Caller[TurnItem]) -> float:
        return self._mean if caller.mean is None else caller.mean

    def _foreground(self) -> list[_Caller[TurnItem]]:
        return [caller for name, caller in self._callers.items() if name != BACKGROUND_CALLER]

    def _charge(self, name: str, seconds: float) -> None:
        if name == BACKGROUND_CALLER:
            return
        known = self._foreground()
        active = sum(caller.active for caller in known)
        for caller in known:
            caller.balance += seconds / active
        self._callers[name].balance -= seconds

    def _forget(self) -> None:
        """Forget callers that are inactive and owe nothing; all callers once none is active."""
        if not any(caller.active for caller in self._callers.values()):
            self._callers.clear()
        for name in [name for name, caller in self._callers.items() if not caller.active and caller.balance >= 0]:
            del self._callers[name]


def _averaged(mean: float | None, seconds: float) -> float:
    return seconds if mean is None else _EMA_DECAY * mean + (1 - _EMA_DECAY) * seconds
