"""The service far beyond its capacity: `python -m benchmarks.overload PHOTOS --bundle BUNDLE`.

Measures the capacity (closed loop), then sends ten times as many requests (open loop: they leave at fixed times,
whatever the answers) while another process asks /livez. Prints Markdown, and reports only.
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path

import httpx
import pandas as pd

from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from benchmarks.photographs import photographs
from bundle.bundle_errors import BadBundle
from bundle.reader import open_bundle
from tests.support.load import capacity, centile, flood, probing
from tests.support.processes import resident_mb
from tests.support.servers import crossvit_serve

CLIENTS = 16


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
    try:
        name = open_bundle(args.bundle).manifest.variant
    except BadBundle as err:
        parser.error(str(err))
    options = ["--bundle", str(args.bundle), "--log-level", "warning", "--decoders", "0"]
    options += ["--max-queue", str(args.max_queue), "--max-batch", str(args.max_batch)]
    with crossvit_serve(None, *options) as server:
        server.wait_until_ready()
        batch = largest_batch(server.url)
        rate = asyncio.run(capacity(server.url, photos, CLIENTS, seconds=10))
        before = resident_mb(server.pid)
        with probing(server.url) as at_rest:
            time.sleep(5)
        with probing(server.url) as under_load:
            outcome = asyncio.run(flood(server.url, photos, args.times * rate, args.seconds))
        after = resident_mb(server.pid)
    accepted, refused = outcome.seconds[200], outcome.seconds.get(429, [0.0])
    served = len(accepted) / args.seconds
    bound = args.max_queue + 2 * batch
    rows = {
        "answers by status": ", ".join(f"{status}: {count}" for status, count in outcome.counts.items()),
        "served under load": f"{served:.1f}/s",
        f"queue's bound plus two batches of {batch}": f"{bound} images, {bound / served:.2f} s at that rate",
        "answers given while one waited, its own among them: most": outcome.most_answers_during_one(),
        "accepted: p50, p99, longest": _times(accepted),
        "refused (429): p50, p99, longest": _times(refused),
        "Retry-After": ", ".join(f"{value} s: {count}" for value, count in outcome.retry_after.most_common(4)),
        "/livez at rest: p50, p99, longest": _times(at_rest),
        "/livez under load: p50, p99, longest": _times(under_load),
        "memory of all processes before, after": f"{before:.0f} MB, {after:.0f} MB",
    }
    print(f"{name}, {args.times:g} times its capacity of {rate:.1f}/s for {args.seconds:g} s; {machine()}\n")
    print_table(pd.DataFrame(rows.items(), columns=["", "measured"]))


def largest_batch(url: str) -> int:
    """The most images in one engine call, at the default resolution, of the one model that is served at `url`."""
    (model,) = httpx.get(f"{url}/models").raise_for_status().json()["models"]
    config = httpx.get(f"{url}/v2/models/{model['name']}/config").raise_for_status().json()
    (images,) = config["dynamic_batching"]["preferred_batch_size"]
    return int(images)


def _times(seconds: list[float]) -> str:
    values = (statistics.median(seconds), centile(seconds, 99), max(seconds))
    return ", ".join(f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s" for value in values)


if __name__ == "__main__":
    main()
