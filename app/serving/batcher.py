"""Concurrent requests share engine calls, without a timer: items that wait for the busy engine are the next batch.

The queue is bounded. A request enters it before its image is decoded, and leaves when an engine call takes it.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

from app.decoding.fair_queue import BACKGROUND_CALLER
from app.errors import QueueFull, TooLarge, TooLate
from app.timing import Interval

QueueItem = TypeVar("QueueItem")
QueueResult = TypeVar("QueueResult")

_RESERVE_DIVISOR = 8  # a caller without a place has an eighth of the queue's room more
_WEIGHT_OF_EARLIER = 0.8  # in the measured seconds of an image, at each new measurement


@dataclass(frozen=True)
class BatchedAnswer(Generic[QueueResult]):
    """A result, when it waited for the engine, and when its engine call ran."""

    result: QueueResult
    queue: Interval
    inference: Interval


class Place:
    """Room for one item in the queue. Leaving twice is leaving once.

    Attributes:
        background: whether its item is of BACKGROUND_CALLER.
    """

    def __init__(self, leave: Callable[[], None], background: bool = False) -> None:
        self._leave: Callable[[], None] | None = leave
        self.background = background

    def leave(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None


@dataclass
class _Entry(Generic[QueueItem, QueueResult]):
    place: Place
    key: int
    item: QueueItem
    deadline: float
    since: float
    answer: asyncio.Future[BatchedAnswer[QueueResult]]


async def _at_once() -> None:
    pass


class Batcher(Generic[QueueItem, QueueResult]):
    """Calls `run` with batches of waiting items, as many calls at a time as `calls` says.

    With several, the items of the next batch are on their way to the engine while it computes for the one before.

    Items of BACKGROUND_CALLER are not counted: not as waiting, not in the expected time, and not in `on_batch` unless
    they share their call with others. They get no place that others have room for.

    Use as an async context manager: leaving it finishes what was submitted. `limit`, `room` and `calls` are called each
    time, since the engine behind `run` may be replaced by one that takes more or less.

    Args:
        run: is given a key and items of it; gives one result for each item, in order.
        limit: the largest batch for a key.
        room: how many items may wait.
        most_seconds: that the items which wait may be expected to take, as measured.
        calls: how many calls may be on their way.
        ready: no call begins before it returns.
        before: the seconds until the items that have a place, but are not submitted yet, will be.
        on_batch: is told the size of each finished call, and when it ran.
        clock: of the deadlines and intervals.
    """

    def __init__(
        self,
        run: Callable[[int, list[QueueItem]], Awaitable[Sequence[QueueResult]]],
        *,
        limit: Callable[[int], int],
        room: Callable[[], int],
        most_seconds: float = math.inf,
        calls: Callable[[], int] = lambda: 1,
        ready: Callable[[], Awaitable[None]] = _at_once,
        before: Callable[[], float] = lambda: 0.0,
        on_batch: Callable[[int, Interval], None] = lambda *_: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._limit = limit
        self._room = room
        self._most_seconds = most_seconds
        self._calls = calls
        self._ready = ready
        self._before = before
        self._on_batch = on_batch
        self._clock = clock
        self._taken: Counter[str] = Counter()  # places, by caller
        self.waiting = 0  # how many items have a place in the queue, apart from the background's
        self._waiting: deque[_Entry[QueueItem, QueueResult]] = deque()
        self._keys: Counter[int] = Counter()  # of those that wait: the expected time is asked for each request
        self._running: dict[asyncio.Task[None], list[_Entry[QueueItem, QueueResult]]] = {}
        self._changed = asyncio.Event()  # an item has arrived, or a call has ended
        self._latest_end = -math.inf  # of a call
        self._seconds: dict[int | None, float] = {}  # that an image of each key takes, measured
        self._last: int | None = None  # the key of the last call
        self._closing = False

    async def __aenter__(self) -> "Batcher[QueueItem, QueueResult]":
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        entries = chain(*self._running.values(), self._waiting)
        await asyncio.gather(*(entry.answer for entry in entries), return_exceptions=True)
        self._worker.cancel()

    def check_room(self, count: int = 1, caller: str = "") -> None:
        """Raise QueueFull if `count` items of `caller` have no room now, or if what waits is expected to take too long.

        It says when to try again. A full queue still has room for an eighth more, of callers who have no place in it:
        one caller that fills it does not shut out the others.
        """
        self._check_places(count, caller)
        if not self.waiting:
            return
        seconds, most = self.expected_seconds, self._most_seconds
        most += most / _RESERVE_DIVISOR if self._has_reserve(caller) else 0.0
        if seconds > most:
            detail = f"the {self.waiting} images that wait take about {seconds:.0f} s, and {most:.0f} s may"
            raise QueueFull(f"the queue is full: {detail}", self._retry_after())

    def enter(self, count: int = 1, caller: str = "") -> list[Place]:
        """Places for `count` items of `caller`, all or none: QueueFull."""
        self._check_places(count, caller)
        self._taken[caller] += count
        background = caller == BACKGROUND_CALLER
        if not background:
            self.waiting += count
        return [Place(lambda: self._left(caller), background) for _ in range(count)]

    @contextmanager
    def places(self, count: int = 1, caller: str = "") -> Iterator[list[Place]]:
        """What `enter` gives, until the block ends."""
        places = self.enter(count, caller)
        try:
            yield places
        finally:
            for place in places:
                place.leave()

    async def submit(
        self, place: Place, key: int, item: QueueItem, deadline: float = math.inf
    ) -> BatchedAnswer[QueueResult]:
        """The answer for `item`, which shares its call with items of the same key; raises what `run` raised.

        Raises TooLate instead of spending a batch slot on an answer that would come after `deadline` (on `clock`).
        Cancelling it, as when a client has gone, takes the item out of the queue.
        """
        if self._closing:
            raise RuntimeError("the batcher is closed")
        answer = asyncio.get_running_loop().create_future()
        entry = _Entry[QueueItem, QueueResult](place, key, item, deadline, self._clock(), answer)
        self._waiting.append(entry)
        self._keys[key] += not place.background
        self._changed.set()
        return await entry.answer

    def _has_reserve(self, caller: str) -> bool:
        return bool(caller) and caller != BACKGROUND_CALLER and caller not in self._taken

    def _check_places(self, count: int, caller: str) -> None:
        room = self._room()
        if count > room:
            raise TooLarge(f"{count} images are more than the queue holds, which is {room}")
        if self._has_reserve(caller):
            room += room // _RESERVE_DIVISOR
        if self.waiting + count > room:
            raise QueueFull(f"the queue is full: {self.waiting} images wait, {room} may", self._retry_after())

    @property
    def expected_seconds(self) -> float:
        """Until all that wait are decoded and have had their engine call, as far as known; 0 if none waits."""
        if not self.waiting:
            return 0.0
        return max(self._seconds_to_empty(), self._before())

    def _retry_after(self) -> int:
        return max(1, math.ceil(self.expected_seconds))

    def _seconds_to_empty(self) -> float:
        """The seconds that all waiting items take, as far as known; one not decoded yet counts as in the last batch."""
        known = sum(count * self._seconds.get(key, 0.0) for key, count in self._keys.items())
        return known + max(0, self.waiting - self._keys.total()) * self._seconds.get(self._last, 0.0)

    def _left(self, caller: str) -> None:
        if caller != BACKGROUND_CALLER:
            self.waiting -= 1
        self._taken[caller] -= 1
        if not self._taken[caller]:
            del self._taken[caller]

    async def _work(self) -> None:
        while True:
            await self._changed.wait()
            await self._ready()
            batch = self._take() if len(self._running) < self._calls() else []
            if batch:
                call = asyncio.create_task(self._call(batch))
                self._running[call] = batch
                call.add_done_callback(self._ended)
            else:
                self._changed.clear()

    def _ended(self, call: asyncio.Task[None]) -> None:
        del self._running[call]
        self._changed.set()

    def _take(self) -> list[_Entry[QueueItem, QueueResult]]:
        """The oldest entry with those of its key, in order; the others stay."""
        while True:
            # The client has gone: don't spend a batch slot on it.
            alive = [entry for entry in self._waiting if not entry.answer.done()]
            if not alive:
                self._waiting.clear()
                self._keys.clear()
                return []
            same = [entry for entry in alive if entry.key == alive[0].key]
            limit = self._limit(alive[0].key)
            size = min(len(same), limit)
            end = self._clock() + size * self._seconds.get(alive[0].key, 0.0)
            late = [entry for entry in same if entry.deadline < end]
            for entry in late:
                entry.answer.set_exception(TooLate("the answer would come after the request's deadline"))
            batch = [entry for entry in same if entry.deadline >= end][:limit]
            taken = {id(entry) for entry in batch}
            self._waiting = deque(entry for entry in alive if id(entry) not in taken and not entry.answer.done())
            self._keys = Counter(entry.key for entry in self._waiting if not entry.place.background)
            if batch:
                return batch

    async def _call(self, batch: list[_Entry[QueueItem, QueueResult]]) -> None:
        for entry in batch:
            entry.place.leave()
        started = self._clock()
        try:
            results = await self._run(batch[0].key, [entry.item for entry in batch])
            answered = list(zip(batch, results, strict=True))
        except Exception as err:
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(err)
            return
        span = Interval(started, self._clock())
        alone = span.end - max(started, self._latest_end)  # another call may have had the engine until then
        self._latest_end = span.end
        self._learn(batch[0].key, alone / len(batch))
        if not all(entry.place.background for entry in batch):
            self._on_batch(len(batch), span)
        for entry, result in answered:
            if not entry.answer.done():
                entry.answer.set_result(BatchedAnswer(result, Interval(entry.since, started), span))

    def _learn(self, key: int, seconds: float) -> None:
        known = self._seconds.get(key, seconds)
        self._last = key
        self._seconds[key] = _WEIGHT_OF_EARLIER * known + (1 - _WEIGHT_OF_EARLIER) * seconds
