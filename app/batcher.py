"""Concurrent requests share engine calls, without a timer: what waits while the engine is busy is the next batch."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """A result, and the seconds that it waited and that its engine call took."""

    result: Result
    queue: float
    inference: float


@dataclass
class _Entry(Generic[Item, Result]):
    key: Hashable
    item: Item
    answer: asyncio.Future[Answer[Result]]
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Item, Result]):
    """Calls `run` with up to `limit` waiting items of one key, one call at a time, in a thread of its own.

    `run` takes the items and gives one result for each, in order. Use as an async context manager: leaving it
    finishes what was submitted.
    """

    def __init__(self, run: Callable[[list[Item]], Sequence[Result]], limit: int) -> None:
        self._run = run
        self._limit = limit
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def __aenter__(self) -> "Batcher[Item, Result]":
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._arrived.set()
        await self._worker
        self._thread.shutdown()

    async def submit(self, key: Hashable, item: Item) -> Answer[Result]:
        """The answer for `item`, which shares its call with items of the same key; raises what `run` raised.

        Cancelling it, as when a client has gone, takes the item out of the queue.
        """
        if self._closing:
            raise RuntimeError("the batcher is closed")
        entry = _Entry[Item, Result](key, item, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._arrived.set()
        return await entry.answer

    async def _work(self) -> None:
        while True:
            batch = self._take()
            if batch:
                await self._call(batch)
            elif self._closing:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _take(self) -> list[_Entry[Item, Result]]:
        """The oldest entry with those of its key, in order; the others stay."""
        # Whoever has gone: don't spend a batch slot on it.
        alive = [entry for entry in self._waiting if not entry.answer.done()]
        batch: list[_Entry[Item, Result]] = []
        self._waiting = deque()
        for entry in alive:
            fits = entry.key == alive[0].key and len(batch) < self._limit
            (batch if fits else self._waiting).append(entry)
        return batch

    async def _call(self, batch: list[_Entry[Item, Result]]) -> None:
        started = time.perf_counter()
        try:
            items = [entry.item for entry in batch]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
            answered = list(zip(batch, results, strict=True))
        except Exception as err:
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(err)
            return
        seconds = time.perf_counter() - started
        for entry, result in answered:
            if not entry.answer.done():
                entry.answer.set_result(Answer(result, started - entry.since, seconds))
