"""Intervals and deadlines, on the clock of time.perf_counter."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.errors import TooLate


@dataclass(frozen=True)
class Interval:
    """The start and end of an event, in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@asynccontextmanager
async def until_deadline(deadline: float) -> AsyncIterator[None]:
    """Cancel the block and raise TooLate at `deadline`, in seconds on that clock; math.inf means no deadline."""
    try:
        async with asyncio.timeout(None if deadline == math.inf else deadline - time.perf_counter()):
            yield
    except TimeoutError as err:
        raise TooLate("the request's deadline passed before its answer was ready") from err
