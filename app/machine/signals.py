"""Signal handlers for the time before the service runs and after it, when no event loop handles signals."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class Outside:
    """Handlers for a process that does not serve yet, or does not serve any more.

    SIGTERM and SIGINT end it at once with status 0, after `cleanup`. After SIGHUP `reload` is true.
    """

    def __init__(self) -> None:
        self.reload = False
        self.cleanup: Callable[[], None] = lambda: None

    def take(self) -> None:
        """Handle the signals from now on."""
        for number in _STOPPING:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._remember)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # it is for the parent of several instances, once that runs

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self.reload = True

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        # An exception would not do: imports, and code that C calls, would swallow or print it.
        self.cleanup()
        logging.shutdown()
        os._exit(0)


outside = Outside()


@contextmanager
def handled_by_loop(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Let the running event loop call these handlers until the block ends; then those of `outside` are back."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, handlers)  # while they have no handler
        for number in handlers:
            loop.remove_signal_handler(number)
        outside.take()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
