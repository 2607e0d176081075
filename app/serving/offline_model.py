"""A model without a server, for commands and for workers of other schedulers."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from app.configuration.settings import Settings
from app.serving.assembly import make_decoders, make_model
from app.serving.served_model import ServedModel
from app.telemetry.metrics import Metrics
from bundle.reader import Bundle

T = TypeVar("T")


@asynccontextmanager
async def offline(bundle: Bundle, settings: Settings) -> AsyncIterator[ServedModel]:
    """A started model of `bundle`, with its own decoders and no server."""
    decoders = make_decoders(settings)
    patient = settings.model_copy(update={"max_queue_seconds": math.inf})  # nobody waits for one image
    model = make_model(patient, bundle, decoders, Metrics(list).model(bundle.name))
    async with decoders:
        try:
            await model.start()
            yield model
        finally:
            await model.close()


async def run_in_order(
    work: Iterable[Coroutine[Any, Any, T]] | AsyncIterable[Coroutine[Any, Any, T]], in_flight: int
) -> AsyncGenerator[T, None]:
    """The results of `work`, in order, with up to `in_flight` under way; closing the generator cancels them."""
    tasks: deque[asyncio.Task[T]] = deque()
    try:
        async for coroutine in work if isinstance(work, AsyncIterable) else _each(work):
            tasks.append(asyncio.create_task(coroutine))
            if len(tasks) == in_flight:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _each(work: Iterable[T]) -> AsyncIterator[T]:
    for item in work:
        yield item
