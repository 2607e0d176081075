"""Measures starts and memory: `python -m benchmarks.starting PHOTOS --bundle BUNDLE --precision int8 f32`.

A first start compiles. Then services of each precision start in turns from the compiled cache, timed from the command
to the first 200 of /readyz. Then one service for each resolution answers photographs for 16 clients: the memory of all
its processes, and of the engine of that resolution. Prints Markdown, and only reports.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import httpx

from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from benchmarks.server import Server, proportional_mb, resident_mb, running
from bundle.bundle_errors import BadBundle
from bundle.reader import open_bundle
from tests.support.processes import workers

CLIENTS = 16
IMAGES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of JPEGs")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", nargs="+", default=["auto"])
    parser.add_argument("--starts", type=int, default=6)
    args = parser.parse_args()
    photos = photographs(args.photos)
    try:
        bundle = open_bundle(args.bundle)
    except BadBundle as err:
        sys.exit(f"error: {err}")
    print(f"{bundle.name}, {args.starts} starts of each in turns; {machine()}\n")
    seconds: dict[str, list[float]] = {precision: [] for precision in args.precision}
    for precision in args.precision:
        seconds_to_start(args.bundle, precision)  # compiles
    for _ in range(args.starts):
        for precision, starts in seconds.items():
            starts.append(seconds_to_start(args.bundle, precision))
    print("| precision | ready after, s: median (least to most) |\n|---|---|")
    for precision, starts in seconds.items():
        print(f"| {precision} | {median(starts):.2f} ({min(starts):.2f} to {max(starts):.2f}) |")
    print("\n| precision | resolution | all processes, MB | of it this engine's | shared memory counted in each, MB |")
    print("|---|---|---|---|---|")
    for precision in args.precision:
        for resolution in bundle.resolutions:
            preload = [] if resolution == bundle.manifest.default_resolution else ["--preload", str(resolution)]
            with service(args.bundle, precision, *preload):
                pass  # compiles
            with service(args.bundle, precision, *preload) as server:
                answer(server, photos, resolution)
                engine = max(workers(server.pid, "engine"))  # the last one to start
                total, own, each = (f(pid) for f, pid in ((proportional_mb, server.pid), (proportional_mb, engine),
                                                          (resident_mb, server.pid)))  # fmt: skip
                print(f"| {precision} | {resolution} | {total:.0f} | {own:.0f} | {each:.0f} |")


def service(bundle: Path, precision: str, *options: str) -> AbstractContextManager[Server]:
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(bundle), "--precision", precision]
    return running([*command, "--log-level", "warning", *options, "--port"])


def seconds_to_start(bundle: Path, precision: str) -> float:
    started = time.perf_counter()
    with service(bundle, precision):
        return time.perf_counter() - started


def answer(server: Server, photos: list[bytes], resolution: int) -> None:
    def post(photo: bytes) -> None:
        url = f"{server.url}/classify?resolution={resolution}"
        httpx.post(url, files={"file": photo}, timeout=120).raise_for_status()

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(post, islice(cycle(photos), IMAGES)))


if __name__ == "__main__":
    main()
