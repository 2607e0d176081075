"""The log of early refusals: a flood of them must not fill it, so they are counted."""

import asyncio
import logging
from collections import Counter

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0


class RefusalLog:
    """Writes a line with the number of refusals by reason, some seconds after the first one that it counts."""

    def __init__(self, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._seconds = seconds
        self._counts: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        if not self._counts:
            asyncio.get_running_loop().call_later(self._seconds, self.write)
        self._counts[reason] += 1

    def write(self) -> None:
        """Write what is counted so far, if anything is."""
        if self._counts:
            counts = ", ".join(f"{reason} {count}" for reason, count in self._counts.most_common())
            log.warning("%d requests were refused in %g s: %s", self._counts.total(), self._seconds, counts)
            self._counts.clear()
