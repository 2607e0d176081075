"""An event loop for the threads of an actor, which are Ray's."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs an event loop in a thread of its own. `close` it; a process that ends without that ends all the same.

    The thread is a daemon: Ray ends actors without asking. Decoders and engines end when the process does whose calls
    they wait for.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._entered: list[AbstractAsyncContextManager[Any]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or its error; from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """What `context` gives, until `close`."""
        self._entered.append(context)
        return self.run(_enter(context))

    def close(self) -> None:
        """Leave what was entered, the last first, and end the thread; again is a no-op."""
        while self._entered:
            self.run(_leave(self._entered.pop()))
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _enter(context: AbstractAsyncContextManager[T]) -> T:
    return await context.__aenter__()


async def _leave(context: AbstractAsyncContextManager[Any]) -> None:
    await context.__aexit__(None, None, None)
