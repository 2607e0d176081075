"""This service beside a plain one, over HTTP with photographs.

`python -m benchmarks.service PHOTOS --bundle BUNDLE`. Both servers run; the load goes to one after the other in short
rounds, so that the machine's drift hits both. Closed loop: each client posts its next photograph when it has the
answer to the last. Prints Markdown, and reports only.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx

PLAIN, OURS = "FastAPI + PyTorch eager f32", "this service"


@dataclass
class Server:
    url: str
    pid: int


@dataclass
class Round:
    """Requests a second, and the latency of each request in milliseconds."""

    rate: float
    latencies: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of images")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of a round")
    args = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(args.photos.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]
    variant = json.loads((args.bundle / "manifest.json").read_text())["variant"]
    commands = {
        PLAIN: [sys.executable, "-m", "benchmarks.plain_service", variant],
        OURS: [sys.executable, "-m", "app", "serve", "--log-level", "warning", "--bundle", str(args.bundle), "--port"],
    }
    rounds: dict[tuple[str, int], list[Round]] = defaultdict(list)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(running(command)) for name, command in commands.items()}
        for server in servers.values():
            asyncio.run(load(server.url, photos, clients=2, seconds=3))
        resting = {name: resident_mb(server.pid) for name, server in servers.items()}
        for _, clients, (name, server) in itertools.product(range(args.rounds), args.clients, servers.items()):
            rounds[name, clients].append(asyncio.run(load(server.url, photos, clients, args.seconds)))
        loaded = {name: resident_mb(server.pid) for name, server in servers.items()}
        answer = httpx.get(f"{servers[OURS].url}/models").json()["models"][0]
    print(f"{variant}, {answer['engine']} {answer['precision']}; {machine()}")
    print(f"{args.rounds} interleaved rounds of {args.seconds:g} s, {len(photos)} photographs\n")
    print("| clients | service | requests/s | times the plain one (each round) | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for clients, name in itertools.product(args.clients, servers):
        print(row(clients, name, rounds[name, clients], rounds[PLAIN, clients]))
    print("\n| service | memory at rest, MB | after the load, MB |\n|---|---|---|")
    for name in servers:
        print(f"| {name} | {resting[name]:.0f} | {loaded[name]:.0f} |")


def row(clients: int, name: str, own: list[Round], plain: list[Round]) -> str:
    rate = statistics.median(round_.rate for round_ in own)
    ratios = sorted(mine.rate / other.rate for mine, other in zip(own, plain, strict=True))
    ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    latencies = [latency for round_ in own for latency in round_.latencies]
    centiles = statistics.quantiles(latencies, n=100)
    return f"| {clients} | {name} | {rate:.1f} | {ratio} | {centiles[49]:.0f} | {centiles[98]:.0f} |"


@contextmanager
def running(command: list[str]) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([*command, str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url)
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait()


def resident_mb(pid: int) -> float:
    """Memory of a process and its children, each counted in full."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue  # it has just ended
        if f"\nPid:\t{pid}\n" in text or f"\nPPid:\t{pid}\n" in text:
            total += sum(map(int, re.findall(r"VmRSS:\s+(\d+) kB", text)))
    return total / 1000


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(url)


async def load(url: str, photos: list[bytes], clients: int, seconds: float) -> Round:
    supply = itertools.cycle(photos)
    latencies: list[float] = []
    started = time.perf_counter()

    async def client(http: httpx.AsyncClient) -> None:
        while (begun := time.perf_counter()) < started + seconds:
            response = await http.post("/classify", files={"file": ("photo.jpg", next(supply), "image/jpeg")})
            response.raise_for_status()
            latencies.append(1000 * (time.perf_counter() - begun))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return Round(len(latencies) / (time.perf_counter() - started), latencies)


def machine() -> str:
    cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "openvino", "onnxruntime", "pillow"))
    return f"{os.cpu_count()} cores of {cpu}, Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    main()
