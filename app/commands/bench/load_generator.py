"""Load for a server: clients that wait for their answers (a closed loop), or requests at a fixed rate (an open one)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from app.commands.bench.http_client import HttpAnswer, NoAnswer

SendRequest = Callable[[], Awaitable[HttpAnswer]]

_PAUSE = 0.1  # seconds before a client that was refused asks again: at once would take the server's cores


@dataclass(frozen=True)
class Load:
    """So many `clients`, or a `rate` of requests a second."""

    clients: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.rate is not None:
            return f"{self.rate:g} requests/s"
        return "1 client" if self.clients == 1 else f"{self.clients} clients"


@dataclass(frozen=True)
class Sample:
    """One request: when it was to be sent and when its answer was there, on the clock of time.perf_counter."""

    due: float
    done: float
    answer: HttpAnswer | NoAnswer

    @property
    def good(self) -> bool:
        return isinstance(self.answer, HttpAnswer) and self.answer.status == 200


@dataclass
class LoadRun:
    """What was measured of `load` between `start` and `end`; `client_seconds` is the processor time of this process.

    `samples` has all requests, also those of the warm-up and the answers that came after the end.
    """

    load: Load
    start: float
    end: float
    samples: list[Sample] = field(default_factory=list)
    client_seconds: float = 0.0


async def drive(run: LoadRun, ask: SendRequest) -> None:
    """Ask from now until the end of `run`, and wait for what is under way then; the samples are put into `run`.

    If it is cancelled the run ends there, with what was measured so far.
    """
    watch = asyncio.create_task(_watch(run))
    try:
        await (_open(run, ask, run.load.rate) if run.load.rate else _closed(run, ask, run.load.clients or 1))
    except asyncio.CancelledError:
        run.end = min(run.end, time.perf_counter())
        raise
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def _closed(run: LoadRun, ask: SendRequest, clients: int) -> None:
    async def client() -> None:
        while (due := time.perf_counter()) < run.end:
            if not await _ask(run, ask, due):
                await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def _open(run: LoadRun, ask: SendRequest, rate: float) -> None:
    """A late answer delays no other request: each is due at its own time, and its latency counts from then."""
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


async def _watch(run: LoadRun) -> None:
    """Take the processor time of the measured part alone."""
    await asyncio.sleep(run.start - time.perf_counter())
    before = time.process_time()
    try:
        await asyncio.sleep(run.end - time.perf_counter())
    finally:
        run.client_seconds = time.process_time() - before
