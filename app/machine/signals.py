"""Signal handlers for the time before the service runs and after it, when no event loop handles signals."""

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)
ALL = (*STOPPING, signal.SIGHUP)


class Outside:
    """Handlers for a process that does not serve yet, or does not serve any more.

    SIGTERM and SIGINT end it at once with status 0, after `cleanup`. After SIGHUP `reload` is true.
    """

    def __init__(self) -> None:
        self.reload = False
        self.cleanup: Callable[[], None] = lambda: None

    def take(self) -> None:
        """Handle the signals from now on."""
        for number in STOPPING:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._remember)

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self.reload = True

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        # An exception would not do: imports, and code that C calls, would swallow or print it.
        self.cleanup()
        logging.shutdown()
        os._exit(0)


outside = Outside()
