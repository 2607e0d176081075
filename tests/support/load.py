"""Load on a running service: its capacity, floods beyond that, and probes meanwhile."""

import asyncio
import itertools
import multiprocessing
import statistics
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from app.commands.bench.http_client import HttpAnswer, HttpRequest, LoadClient, NoAnswer
from app.commands.bench.load_generator import Load, LoadRun, drive

_PROBE_PAUSE_SECONDS = 0.02
_FAILED_PROBE_SECONDS = 999.0
_MAX_CONNECTIONS = 10_000  # no request of a flood waits for another one's connection


@dataclass
class FloodOutcome:
    """The answers of a flood.

    Attributes:
        seconds: latencies by status, counted from when a request was due; status 0 is a connection that broke.
        retry_after: how often each Retry-After, in seconds, was sent.
        answered: when each request with status 200 was sent and when its answer had come.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    retry_after: Counter[int] = field(default_factory=Counter)
    answered: list[tuple[float, float]] = field(default_factory=list)

    def most_answers_during_one(self) -> int:
        """The most answers that were given between the sending of a request and its own answer, which counts too.

        It does not depend on the machine's speed: this is the bound of the queue as the clients see it.
        """
        ends = sorted(end for _, end in self.answered)
        return max(bisect_right(ends, end) - bisect_left(ends, sent) for sent, end in self.answered)

    @property
    def counts(self) -> dict[int, int]:
        return {status: len(seconds) for status, seconds in sorted(self.seconds.items())}


async def driven(
    client: LoadClient, requests: Sequence[HttpRequest], load: Load, seconds: float
) -> tuple[LoadRun, float]:
    """Send these requests in turn for `seconds`, and await the last answers; how long that took."""
    supply = itertools.cycle(requests)
    start = time.perf_counter()
    run = LoadRun(load, start, start + seconds)
    await drive(run, lambda: client.ask(next(supply)))
    return run, time.perf_counter() - start


async def capacity(url: str, photos: Sequence[bytes], clients: int, seconds: float) -> float:
    """Answers per second to `clients` that wait for their answers."""
    async with LoadClient(url) as client:
        requests = [client.post("/classify", photo, "image/jpeg") for photo in photos]
        run, elapsed = await driven(client, requests, Load(clients=clients), seconds)
        return sum(sample.good for sample in run.samples) / elapsed


async def flood(url: str, photos: Sequence[bytes], rate: float, seconds: float) -> FloodOutcome:
    """Send `rate` requests per second, whatever the answers."""
    outcome = FloodOutcome()
    async with LoadClient(url, connections=_MAX_CONNECTIONS) as client:
        requests = itertools.cycle([client.post("/classify", photo, "image/jpeg") for photo in photos])

        async def ask() -> HttpAnswer:
            sent = time.perf_counter()
            answer = await client.ask(next(requests))
            if answer.status == 200:
                outcome.answered.append((sent, time.perf_counter()))
            return answer

        start = time.perf_counter()
        run = LoadRun(Load(rate=rate), start, start + seconds)
        await drive(run, ask)
    for sample in run.samples:
        status = 0 if isinstance(sample.answer, NoAnswer) else sample.answer.status
        outcome.seconds.setdefault(status, []).append(sample.done - sample.due)
        if isinstance(sample.answer, HttpAnswer) and sample.answer.retry_after is not None:
            outcome.retry_after[sample.answer.retry_after] += 1
    return outcome


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Ask /livez from another process, up to 50 times a second; the list has the latencies in seconds afterwards."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_probe, args=(url, there))
    process.start()
    here.recv()
    seconds: list[float] = []
    try:
        yield seconds
    finally:
        here.send("stop")
        seconds += here.recv()
        process.join()


def _probe(url: str, connection: Connection) -> None:
    async def main() -> None:
        seconds: list[float] = []
        async with LoadClient(url) as client:
            connection.send("ready")
            while not (seconds and connection.poll()):  # once at least
                started = time.perf_counter()
                answer = await client.ask(client.get("/livez"))
                seconds.append(time.perf_counter() - started if answer.status == 200 else _FAILED_PROBE_SECONDS)
                await asyncio.sleep(_PROBE_PAUSE_SECONDS)
        connection.send(seconds)

    asyncio.run(main())


def centile(seconds: Sequence[float], percent: int) -> float:
    """The value that `percent` of `seconds` do not exceed, interpolated."""
    return statistics.quantiles(seconds, n=100)[percent - 1] if len(seconds) > 1 else seconds[0]
