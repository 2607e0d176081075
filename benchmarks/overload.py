"""The service far beyond its capacity: `python -m benchmarks.overload PHOTOS --bundle BUNDLE`.

Measures the capacity (closed loop), then sends ten times as many requests (open loop: they leave at fixed times,
whatever the answers) while another process asks /livez. Prints Markdown, and reports only.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import re
import statistics
import sys
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from benchmarks.server import resident_mb, running
from bundle.file_names import MANIFEST

HEAD = "POST /classify HTTP/1.1\r\nHost: service\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
PROBE = b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n"


@dataclass
class Outcome:
    """What became of the requests: latencies in seconds by status, 0 for a connection that broke."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    retry_after: Counter[str] = field(default_factory=Counter)
    answered: list[tuple[float, float]] = field(default_factory=list)  # when each 200 was asked for and when it came

    def most_answers_during_one(self) -> int:
        """How many answers were given, at most, from when a request was sent to its own answer, which counts too.

        However fast the machine is at the time: this is the bound of the queue as the clients see it.
        """
        ends = sorted(end for _, end in self.answered)
        return max(bisect_right(ends, end) - bisect_left(ends, sent) for sent, end in self.answered)

    @property
    def counts(self) -> dict[int, int]:
        return {status: len(seconds) for status, seconds in sorted(self.seconds.items())}


class Client:
    """Raw HTTP/1.1 over kept connections, as light as can be: the service needs the cores."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> tuple[int, str]:
        """The status of the answer, and its Retry-After."""
        connection = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = connection
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if "connection: close" in head:
            writer.close()
        else:
            self._idle.append(connection)
        retry = re.search(r"retry-after: (\d+)", head)
        return int(head.split()[1]), retry[1] if retry else ""

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def requests_of(photos: list[bytes]) -> list[bytes]:
    """What is sent for each photo."""
    return [HEAD.format(len(photo)).encode() + photo for photo in photos]


async def capacity(port: int, requests: list[bytes], clients: int, seconds: float) -> float:
    """Answers a second in a closed loop."""
    client, supply = Client(port), itertools.cycle(requests)
    done = 0
    started = time.perf_counter()

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() < started + seconds:
            status, _ = await client.ask(next(supply))
            done += status == 200

    await asyncio.gather(*(loop() for _ in range(clients)))
    client.close()
    return done / (time.perf_counter() - started)


async def flood(port: int, requests: list[bytes], rate: float, seconds: float) -> Outcome:
    """`rate` requests a second; latencies count from when each should have been sent."""
    client, outcome = Client(port), Outcome()
    started = time.perf_counter()

    async def one(request: bytes, due: float) -> None:
        sent = time.perf_counter()
        try:
            status, retry = await client.ask(request)
        except (OSError, EOFError):
            status, retry = 0, ""
        end = time.perf_counter()
        outcome.seconds.setdefault(status, []).append(end - due)
        if status == 200:
            outcome.answered.append((sent, end))
        if retry:
            outcome.retry_after[retry] += 1

    tasks = set()
    for number, request in zip(range(int(rate * seconds)), itertools.cycle(requests)):
        due = started + number / rate
        await asyncio.sleep(max(0, due - time.perf_counter()))
        task = asyncio.create_task(one(request, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    client.close()
    return outcome


@contextmanager
def probing(port: int) -> Iterator[list[float]]:
    """Ask /livez from another process, 50 times a second; the latencies in seconds are there when the block ends."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_probe, args=(port, there))
    process.start()
    here.recv()
    seconds: list[float] = []
    try:
        yield seconds
    finally:
        here.send("stop")
        seconds += here.recv()
        process.join()


def _probe(port: int, connection: Connection) -> None:
    async def main() -> None:
        client = Client(port)
        seconds: list[float] = []
        connection.send("ready")
        while not (seconds and connection.poll()):  # once at least
            started = time.perf_counter()
            status, _ = await client.ask(PROBE)
            seconds.append(time.perf_counter() - started if status == 200 else 999.0)
            await asyncio.sleep(0.02)
        connection.send(seconds)

    asyncio.run(main())


def largest_batch(url: str) -> int:
    """The most images in one engine call, at the default resolution, of the one model that is served at `url`."""
    (model,) = httpx.get(f"{url}/models").raise_for_status().json()["models"]
    config = httpx.get(f"{url}/v2/models/{model['name']}/config").raise_for_status().json()
    (images,) = config["dynamic_batching"]["preferred_batch_size"]
    return int(images)


def centile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100)[percent - 1] if len(seconds) > 1 else seconds[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of images")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--times", type=float, default=10, help="the capacity")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max-queue", type=int, default=64)
    parser.add_argument("--max-batch", type=int, default=0, help="0 for what the engine is best at, as in the service")
    args = parser.parse_args()
    photos = photographs(args.photos)
    requests = requests_of(photos)
    options = ["--log-level", "warning", "--max-queue", str(args.max_queue), "--max-batch", str(args.max_batch)]
    options += ["--bundle", str(args.bundle), "--port"]
    with running([sys.executable, "-m", "app", "serve", *options]) as server:
        port = server.port
        batch = largest_batch(server.url)
        rate = asyncio.run(capacity(port, requests, clients=16, seconds=10))
        before = resident_mb(server.pid)
        with probing(port) as idle:
            time.sleep(5)
        with probing(port) as lively:
            outcome = asyncio.run(flood(port, requests, args.times * rate, args.seconds))
        after = resident_mb(server.pid)
    accepted, refused = outcome.seconds[200], outcome.seconds.get(429, [0.0])
    served = len(accepted) / args.seconds
    bound = args.max_queue + 2 * batch
    name = json.loads((args.bundle / MANIFEST).read_text())["variant"]
    print(f"{name}, {args.times:g} times its capacity of {rate:.1f}/s for {args.seconds:g} s; {machine()}\n")
    print("| | |\n|---|---|")
    print(f"| answers by status | {', '.join(f'{status}: {count}' for status, count in outcome.counts.items())} |")
    print(f"| served under load | {served:.1f}/s |")
    print(f"| queue's bound plus two batches of {batch} | {bound} images, {bound / served:.2f} s at that rate |")
    print(f"| answers given while one waited, its own among them: most | {outcome.most_answers_during_one()} |")
    print(f"| accepted: p50, p99, longest | {_times(accepted)} |")
    print(f"| refused (429): p50, p99, longest | {_times(refused)} |")
    print(
        f"| Retry-After | {', '.join(f'{value} s: {count}' for value, count in outcome.retry_after.most_common(4))} |"
    )
    print(f"| /livez at rest: p50, p99, longest | {_times(idle)} |")
    print(f"| /livez under load: p50, p99, longest | {_times(lively)} |")
    print(f"| memory of all processes before, after | {before:.0f} MB, {after:.0f} MB |")


def _times(seconds: list[float]) -> str:
    values = (statistics.median(seconds), centile(seconds, 99), max(seconds))
    return ", ".join(f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s" for value in values)


if __name__ == "__main__":
    main()
