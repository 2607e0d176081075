"""Load for a server: clients that wait for their answers (closed loop), or requests at a fixed rate (open loop)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from app.commands.bench.http_client import HttpAnswer, NoAnswer

SendRequest = Callable[[], Awaitable[HttpAnswer]]

_PAUSE_SECONDS = 0.1  # before a refused client asks again: at once would take the server's cores


@dataclass(frozen=True)
class Load:
    """A number of `clients`, or a `rate` of requests per second."""

    clients: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.rate is not None:
            return f"{self.rate:g} requests/s"
        return "1 client" if self.clients == 1 else f"{self.clients} clients"


@dataclass(frozen=True)
class Sample:
    """One request: when it was due to be sent and when its answer had come, on the clock of time.perf_counter."""

    due: float
    done: float
    answer: HttpAnswer | NoAnswer

    @property
    def good(self) -> bool:
        return isinstance(self.answer, HttpAnswer) and self.answer.status == 200


@dataclass
class LoadRun:
    """A measurement from `start` to `end`, on the clock of time.perf_counter.

    Attributes:
        load: what is put on the server.
        samples: all requests, also those of the warm-up and those answered after the end.
        client_seconds: processor time of this process between start and end.
    """

    load: Load
    start: float
    end: float
    samples: list[Sample] = field(default_factory=list)
    client_seconds: float = 0.0


async def drive(run: LoadRun, ask: SendRequest) -> None:
    """Send requests from now until the end of `run`, await the last answers, and add all samples to `run`.

    If it is cancelled, the run ends there with the samples so far.
    """
    clock = asyncio.create_task(_measure_client(run))
    try:
        if run.load.rate:
            await _open_loop(run, ask, run.load.rate)
        else:
            await _closed_loop(run, ask, run.load.clients or 1)
    except asyncio.CancelledError:
        run.end = min(run.end, time.perf_counter())
        raise
    finally:
        clock.cancel()
        await asyncio.wait([clock])


async def _closed_loop(run: LoadRun, ask: SendRequest, clients: int) -> None:
    async def client() -> None:
        while (due := time.perf_counter()) < run.end:
            if not await _ask(run, ask, due):
                await asyncio.sleep(_PAUSE_SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def _open_loop(run: LoadRun, ask: SendRequest, rate: float) -> None:
    """Each request is due at its own time, and its latency counts from then: a late answer delays no other request."""
    first, sent = time.perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        while (due := first + sent / rate) < run.end:
            await asyncio.sleep(due - time.perf_counter())
            group.create_task(_ask(run, ask, due))
            sent += 1


async def _ask(run: LoadRun, ask: SendRequest, due: float) -> bool:
    answer: HttpAnswer | NoAnswer
    try:
        answer = await ask()
    except NoAnswer as err:
        answer = err
    sample = Sample(due, time.perf_counter(), answer)
    run.samples.append(sample)
    return sample.good


async def _measure_client(run: LoadRun) -> None:
    """Take the processor time between the start and the end of `run` only."""
    await asyncio.sleep(run.start - time.perf_counter())
    before = time.process_time()
    try:
        await asyncio.sleep(run.end - time.perf_counter())
    finally:
        run.client_seconds = time.process_time() - before
