"""A queue for each caller, whose items have their turns so that every caller gets the same time."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

TurnItem = TypeVar("TurnItem")

_MEMORY = 0.8  # of the measured seconds an item takes, at each new measurement


@dataclass(eq=False)
class Turn(Generic[TurnItem]):
    """An item whose turn has come. `FairQueue.over` must be told when it is done."""

    caller: str
    item: TurnItem
    expected: float  # seconds, charged so far
    started: float = field(default_factory=time.perf_counter)


@dataclass(eq=False)
class _Caller(Generic[TurnItem]):
    waiting: deque[TurnItem] = field(default_factory=deque)
    turns: set[Turn[TurnItem]] = field(default_factory=set)
    balance: float = 0.0  # seconds that it has had less than its share
    mean: float | None = None  # seconds that one of its items takes, measured
    latest: int = 0  # the number of its latest turn

    @property
    def active(self) -> bool:
        return bool(self.waiting or self.turns)


class FairQueue(Generic[TurnItem]):
    """Items of one caller have their turns in order; between callers the one that has had the least time goes first.

    What an item took is charged to its caller and credited in equal parts to all that wait or have a turn, as in
    generalized processor sharing (Parekh and Gallager 1993). Until it is measured it counts as its caller's mean. A
    caller that returns has saved nothing up, but what it has had too much is not forgotten while others are active.
    """

    def __init__(self) -> None:
        self._callers: dict[str, _Caller[TurnItem]] = {}
        self._mean = 0.0  # seconds that an item takes, of whichever caller
        self._turns = 0

    def put(self, caller: str, item: TurnItem) -> None:
        self._callers.setdefault(caller, _Caller()).waiting.append(item)

    def take(self) -> Turn[TurnItem] | None:
        """The next turn, or None if nothing waits."""
        name, caller = max(
            ((name, caller) for name, caller in self._callers.items() if caller.waiting),
            key=lambda found: (round(found[1].balance, 6), -len(found[1].turns), -found[1].latest),
            default=(None, None),
        )
        if name is None or caller is None:
            return None
        self._turns += 1
        caller.latest = self._turns
        turn = Turn(name, caller.waiting.popleft(), self._expected(caller))
        caller.turns.add(turn)
        self._charge(caller, turn.expected)
        return turn

    def over(self, turn: Turn[TurnItem], seconds: float) -> None:
        """The turn has ended, and took `seconds`."""
        caller = self._callers[turn.caller]
        self._charge(caller, seconds - turn.expected)
        caller.mean = _learned(caller.mean, seconds)
        self._mean = _learned(self._mean or None, seconds)
        caller.turns.remove(turn)
        self._forget()

    def drop(self, turn: Turn[TurnItem]) -> None:
        """The turn was not used, and its item is of no interest any more."""
        caller = self._callers[turn.caller]
        self._charge(caller, -turn.expected)
        caller.turns.remove(turn)
        self._forget()

    def give_back(self, turn: Turn[TurnItem]) -> None:
        """The turn could not be used: its item has its caller's next one."""
        self._callers[turn.caller].waiting.appendleft(turn.item)
        self.drop(turn)

    def discard(self, caller: str, item: TurnItem) -> None:
        """Take `item` out, if it still waits."""
        known = self._callers.get(caller)
        if known is not None and item in known.waiting:
            known.waiting.remove(item)
            self._forget()

    def clear(self) -> list[TurnItem]:
        """Take out all that waits."""
        waiting = [item for caller in self._callers.values() for item in caller.waiting]
        for caller in self._callers.values():
            caller.waiting.clear()
        self._forget()
        return waiting

    def seconds(self) -> float:
        """How long all that waits or has its turn will take, one after the other, as far as is known."""
        now, total = time.perf_counter(), 0.0
        for caller in self._callers.values():
            spent = [now - turn.started for turn in caller.turns]
            each = max([self._expected(caller), *spent])
            total += len(caller.waiting) * each + sum(max(0.0, each - passed) for passed in spent)
        return total

    def _expected(self, caller: _Caller[TurnItem]) -> float:
        return self._mean if caller.mean is None else caller.mean

    def _charge(self, caller: _Caller[TurnItem], seconds: float) -> None:
        active = sum(known.active for known in self._callers.values())
        for known in self._callers.values():
            known.balance += seconds / active
        caller.balance -= seconds

    def _forget(self) -> None:
        """Whoever is gone and owes nothing; all, once nobody is active."""
        if not any(caller.active for caller in self._callers.values()):
            self._callers.clear()
        for name in [name for name, caller in self._callers.items() if not caller.active and caller.balance >= 0]:
            del self._callers[name]


def _learned(known: float | None, seconds: float) -> float:
    return seconds if known is None else _MEMORY * known + (1 - _MEMORY) * seconds
