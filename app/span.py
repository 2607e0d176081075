"""When something began and ended."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """On the clock of time.perf_counter."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start
