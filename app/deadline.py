"""A deadline for a piece of work."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import TooLate


@asynccontextmanager
async def before(deadline: float) -> AsyncIterator[None]:
    """Cancel the block and raise TooLate at `deadline`, on the clock of time.perf_counter; infinity is none."""
    try:
        async with asyncio.timeout(None if deadline == math.inf else deadline - time.perf_counter()):
            yield
    except TimeoutError as err:
        raise TooLate("there is no answer yet, and the request's deadline has passed") from err
