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
    """When something began and ended, in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@asynccontextmanager
async def until_deadline(deadline: float) -> AsyncIterator[None]:
    """Cancel the block and raise TooLate at `deadline`, in seconds; math.inf means no deadline."""
    try:
        async with asyncio.timeout(None if deadline == math.inf else deadline - time.perf_counter()):
            yield
    except TimeoutError as err:
        raise TooLate("there is no answer yet, and the request's deadline has passed") from err
