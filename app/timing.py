"""Intervals and deadlines, on the clock of time.perf_counter."""

import asyncio
import math
import time
from types import TracebackType
from typing import NamedTuple

from app.errors import TooLate


class Interval(NamedTuple):
    """The start and end of an event, in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class until_deadline:  # noqa: N801  # it is used as asyncio.timeout is
    """Cancel the block and raise TooLate at `deadline`, in seconds on that clock; math.inf means no deadline."""

    def __init__(self, deadline: float) -> None:
        self._timeout = asyncio.timeout(None if deadline == math.inf else deadline - time.perf_counter())

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, err, trace)
        except TimeoutError as late:
            raise TooLate("the request's deadline passed before its answer was ready") from late
