"""The cost of serving beside decoding and inference: `python -m benchmarks.serving_cost PHOTOS --bundle BUNDLE`.

Interleaved rounds measure three things: only the engine in its process, with the way there and back, with one image a
call and with as many as in the service; only decoding, on one core; the service with one client, and with many.
With one client, serving adds the time of an answer less decoding and an engine call. With many, the result is the
share of the rate that the same cores could reach with only decoding and the engine. Prints Markdown, and reports only.
"""

import argparse
import asyncio
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from app.commands.bench.load_generator import Load
from app.decoding.image_decoding import decode
from app.engines.engine_process.supervisor import EngineSupervisor
from app.machine.cpus import usable_cpus
from benchmarks.contest.load import put_on
from benchmarks.machine import line as machine
from benchmarks.photographs import files_in, photographs
from benchmarks.server import Server, running
from bundle.bundle_errors import BadBundle
from bundle.reader import Bundle, open_bundle
from bundle.tensors import Images
from model.spec import Preprocessing

MOST_PIXELS = 1 << 28


@dataclass
class Round:
    """Seconds: medians of an engine call with one image, of decoding one, and of an answer to one client; means of an
    image in the engine's batches and of decoding one. Answers a second to many clients.
    """

    alone: float
    batched: float
    decode: float
    decode_mean: float
    answer: float
    rate: float

    @property
    def added(self) -> float:
        return self.answer - self.decode - self.alone

    @property
    def share(self) -> float:
        return self.rate * (self.batched + self.decode_mean / usable_cpus())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of JPEGs")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--clients", type=int, default=16, help="the many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each part of a round")
    args = parser.parse_args()
    photos = photographs(args.photos)
    try:
        bundle = open_bundle(args.bundle)
    except BadBundle as err:
        sys.exit(f"error: {err}")
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(args.bundle), "--precision", args.precision]
    with running([*command, "--log-level", "warning", "--port"]) as server:
        server.pause()
        rounds, what = asyncio.run(_rounds(bundle, photos, server, args))
    print(f"{what}, {len(photos)} photographs; {machine()}\n")
    print(f"Medians of {args.rounds} rounds of {args.seconds:g} s each, and the least and the largest.\n")
    columns = {
        "engine alone, one image, ms": [1000 * round_.alone for round_ in rounds],
        "engine alone, images/s": [1 / round_.batched for round_ in rounds],
        "decoding on one core, ms": [1000 * round_.decode for round_ in rounds],
        "one client, ms": [1000 * round_.answer for round_ in rounds],
        "added, ms": [1000 * round_.added for round_ in rounds],
        f"{args.clients} clients, answers/s": [round_.rate for round_ in rounds],
        "% of what the cores could": [100 * round_.share for round_ in rounds],
    }
    print(f"| {' | '.join(columns)} |\n|{len(columns) * '---|'}")
    cells = [f"{median(column):.1f} ({min(column):.1f} to {max(column):.1f})" for column in columns.values()]
    print(f"| {' | '.join(cells)} |")


async def _rounds(
    bundle: Bundle, photos: list[bytes], server: Server, args: argparse.Namespace
) -> tuple[list[Round], str]:
    resolution = bundle.manifest.default_resolution
    steps = bundle.manifest.preprocessing[resolution]
    engine = EngineSupervisor(
        bundle, resolution, engine="auto", precision=args.precision, run_seconds=60, load_seconds=300
    )
    files = files_in(args.photos)
    await engine.start()
    try:
        pixels = [decode(photo, steps, MOST_PIXELS) for photo in photos]
        batch = np.stack(list(itertools.islice(itertools.cycle(pixels), engine.batch)))
        with server.turn():  # warms up
            put_on(server.url, "file", Load(clients=args.clients), 2, files)
        rounds = [await _round(engine, batch, photos, steps, server, args) for _ in range(args.rounds)]
    finally:
        await engine.close()
    return rounds, f"{bundle.name} at {resolution} in {engine.precision}, batches of up to {engine.batch}"


async def _round(
    engine: EngineSupervisor,
    batch: Images,
    photos: list[bytes],
    steps: Preprocessing,
    server: Server,
    args: argparse.Namespace,
) -> Round:
    files = files_in(args.photos)
    alone = await _calls(engine, batch[:1], args.seconds)
    batched = await _calls(engine, batch, args.seconds)
    decoding: list[float] = []
    end = time.perf_counter() + args.seconds / 2
    for photo in itertools.cycle(photos):
        started = time.perf_counter()
        if started > end and len(decoding) % len(photos) == 0:
            break
        decode(photo, steps, MOST_PIXELS)
        decoding.append(time.perf_counter() - started)
    with server.turn():
        one = put_on(server.url, "file", Load(clients=1), args.seconds, files)
    with server.turn():
        many = put_on(server.url, "file", Load(clients=args.clients), args.seconds, files)
    return Round(
        median(alone),
        sum(batched) / len(batched) / len(batch),
        median(decoding),
        sum(decoding) / len(decoding),
        median(one.latencies) / 1000,
        many.throughput(args.clients),
    )


async def _calls(engine: EngineSupervisor, images: Images, seconds: float) -> list[float]:
    await engine.run(images)  # the first one after another size is not like the others
    found = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        await engine.run(images)
        found.append(time.perf_counter() - started)
    return found


if __name__ == "__main__":
    main()
