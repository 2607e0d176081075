"""The cost of serving beside decoding and inference: `python -m benchmarks.service_cost PHOTOS --bundle BUNDLE`.

Prints three tables as Markdown, and reports only:

- Interleaved rounds of the engine alone in its process, of decoding on one core, and of the service with one client and
  with many. Serving adds the time of an answer to one client less decoding and an engine call. With many clients the
  result is the share of the rate that the same cores could reach with only decoding and the engine.
- The stages of those answers, as their `timing_ms` has them, and the processor time of the service's processes.
- With --starts, services that start in turns from the compiled cache, timed from the command to the first 200 of
  /readyz, and the memory of one for each resolution after it has answered.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np

from app.commands.bench.http_client import HttpAnswer, LoadClient
from app.commands.bench.load_generator import Load, LoadRun, drive
from app.decoding.image_decoding import decode
from app.engines.engine_process.supervisor import EngineSupervisor
from app.machine.cpus import usable_cpus
from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from bundle.bundle_errors import BadBundle
from bundle.reader import Bundle, open_bundle
from bundle.tensors import Images
from model.files.pixels import TRUSTED_MAX_PIXELS
from tests.support.processes import own_cpu_seconds, proportional_mb, resident_mb, workers
from tests.support.servers import Server, crossvit_serve

STAGES = ("decode", "queue", "inference")
ANSWERED_IMAGES = 64  # before memory is read


@dataclass
class LoadFigures:
    """Requests of one round of a number of clients; times in seconds."""

    rate: float
    latencies: list[float]
    timings: list[dict[str, float]]  # timing_ms of each answer
    http_cpu: float  # processor time for a request, of the HTTP process
    decoder_cpu: float


@dataclass
class CostRound:
    """Seconds of an engine call with one image, of an image in the engine's batches, of decoding one, and loads."""

    alone: float
    batched: float
    decode: float
    decode_mean: float
    one: LoadFigures
    many: LoadFigures

    @property
    def added(self) -> float:
        return median(self.one.latencies) - self.decode - self.alone

    @property
    def share(self) -> float:
        return self.many.rate * (self.batched + self.decode_mean / usable_cpus())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of JPEGs")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", nargs="+", default=["auto"], help="the rounds take the first one")
    parser.add_argument("--clients", type=int, default=16, help="the many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each part of a round")
    parser.add_argument("--starts", type=int, default=0, help="of each precision")
    args = parser.parse_args()
    photos = photographs(args.photos)
    try:
        bundle = open_bundle(args.bundle)
    except BadBundle as err:
        parser.error(str(err))
    print(f"{bundle.name}, {len(photos)} photographs; {machine()}\n")
    if args.rounds:
        print_costs(bundle, photos, args.precision[0], args.clients, args.rounds, args.seconds)
    if args.starts:
        print_starts(bundle, args.precision, args.starts)
        print_memory(bundle, photos, args.precision, args.clients)


def service(bundle: Bundle, precision: str, *options: str) -> AbstractContextManager[Server]:
    """A service with its own number of decoders."""
    all_options = ["--bundle", str(bundle.path), "--precision", precision, "--log-level", "warning", "--decoders", "0"]
    return crossvit_serve(None, *all_options, *options)


def print_costs(
    bundle: Bundle, photos: Sequence[bytes], precision: str, clients: int, rounds: int, seconds: float
) -> None:
    with service(bundle, precision) as server:
        server.wait_until_ready()
        server.pause()
        costs, engine = asyncio.run(measure_costs(bundle, photos, server, precision, clients, rounds, seconds))
    print(f"{engine}: medians of {rounds} rounds of {seconds:g} s for each part, and the least and the largest.\n")
    columns = {
        "engine alone, one image, ms": [1000 * cost.alone for cost in costs],
        "engine alone, images/s": [1 / cost.batched for cost in costs],
        "decoding on one core, ms": [1000 * cost.decode for cost in costs],
        "one client, ms": [1000 * median(cost.one.latencies) for cost in costs],
        "added, ms": [1000 * cost.added for cost in costs],
        f"{clients} clients, answers/s": [cost.many.rate for cost in costs],
        "% of what the cores could": [100 * cost.share for cost in costs],
    }
    print_table(list(columns), [[spread(values, ".1f") for values in columns.values()]])
    print("Medians in ms; processor time is the mean for a request.\n")
    stages = ["clients", "client", *STAGES, "rest in the service", "rest outside", "CPU HTTP", "CPU decoders"]
    print_table(stages, [stage_row(1, [c.one for c in costs]), stage_row(clients, [c.many for c in costs])])


def stage_row(clients: int, loads: Sequence[LoadFigures]) -> list[str]:
    answers = [pair for load in loads for pair in zip(load.latencies, load.timings, strict=True)]
    values = [
        median(1000 * latency for latency, _ in answers),
        *(median(timing[stage] for _, timing in answers) for stage in STAGES),
        median(timing["total"] - sum(timing[stage] for stage in STAGES) for _, timing in answers),
        median(1000 * latency - timing["total"] for latency, timing in answers),
        1000 * mean(load.http_cpu for load in loads),
        1000 * mean(load.decoder_cpu for load in loads),
    ]
    return [str(clients), *(f"{value:.2f}" for value in values)]


async def measure_costs(
    bundle: Bundle,
    photos: Sequence[bytes],
    server: Server,
    precision: str,
    clients: int,
    rounds: int,
    seconds: float,
) -> tuple[list[CostRound], str]:
    """The rounds, and a description of the engine."""
    resolution = bundle.manifest.default_resolution
    steps = bundle.manifest.preprocessing[resolution]
    engine = EngineSupervisor(bundle, resolution, engine="auto", precision=precision, run_seconds=60, load_seconds=300)
    await engine.start()
    try:
        pixels = [decode(photo, steps, TRUSTED_MAX_PIXELS) for photo in photos]
        batch = np.stack(list(itertools.islice(itertools.cycle(pixels), engine.batch)))
        with server.turn():
            await put_on(server, photos, clients, 2)  # warms up
        found = []
        for _ in range(rounds):
            alone = await engine_calls(engine, batch[:1], seconds)
            batched = await engine_calls(engine, batch, seconds)
            decoding = repeated(lambda photo: decode(photo, steps, TRUSTED_MAX_PIXELS), photos, seconds / 2)
            with server.turn():
                one = await put_on(server, photos, 1, seconds)
            with server.turn():
                many = await put_on(server, photos, clients, seconds)
            found.append(
                CostRound(median(alone), mean(batched) / len(batch), median(decoding), mean(decoding), one, many)
            )
    finally:
        await engine.close()
    return found, f"{bundle.name} at {resolution} in {engine.precision}, batches of up to {engine.batch}"


async def put_on(server: Server, photos: Sequence[bytes], clients: int, seconds: float) -> LoadFigures:
    """Load of a number of clients, each of which sends its next photograph when it has its answer."""
    processes = [server.pid, *workers(server.pid, "decoder")]
    async with LoadClient(server.url) as client:
        requests = itertools.cycle([client.post("/classify", photo, "image/jpeg") for photo in photos])
        before = [own_cpu_seconds(pid) for pid in processes]
        start = time.perf_counter()
        run = LoadRun(Load(clients=clients), start, start + seconds)
        await drive(run, lambda: client.ask(next(requests)))
        elapsed = time.perf_counter() - start
    http_cpu, *decoder_cpu = (own_cpu_seconds(pid) - used for pid, used in zip(processes, before, strict=True))
    good = [sample for sample in run.samples if sample.good]
    return LoadFigures(
        rate=len(good) / elapsed,
        latencies=[sample.done - sample.due for sample in good],
        timings=[json.loads(s.answer.body)["timing_ms"] for s in good if isinstance(s.answer, HttpAnswer)],
        http_cpu=http_cpu / len(run.samples),
        decoder_cpu=sum(decoder_cpu) / len(run.samples),
    )


async def engine_calls(engine: EngineSupervisor, images: Images, seconds: float) -> list[float]:
    """The seconds of each call, after one that is not measured: the first after another size is not like the others."""
    await engine.run(images)
    found = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        await engine.run(images)
        found.append(time.perf_counter() - started)
    return found


def repeated(work: Callable[[bytes], object], photos: Sequence[bytes], seconds: float) -> list[float]:
    """The seconds of `work` for each photograph, over and over; all photographs equally often."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        for photo in photos:
            started = time.perf_counter()
            work(photo)
            found.append(time.perf_counter() - started)
    return found


def print_starts(bundle: Bundle, precisions: Sequence[str], starts: int) -> None:
    for precision in precisions:
        seconds_to_start(bundle, precision)  # compiles
    seconds: Mapping[str, list[float]] = {precision: [] for precision in precisions}
    for _ in range(starts):
        for precision in precisions:
            seconds[precision].append(seconds_to_start(bundle, precision))
    print(f"{starts} starts of each in turns.\n")
    print_table(
        ["precision", "ready after, s: median (least to most)"], [[p, spread(s, ".2f")] for p, s in seconds.items()]
    )


def seconds_to_start(bundle: Bundle, precision: str) -> float:
    started = time.perf_counter()
    with service(bundle, precision) as server:
        server.wait_until_ready()
        return time.perf_counter() - started


def print_memory(bundle: Bundle, photos: Sequence[bytes], precisions: Sequence[str], clients: int) -> None:
    rows = []
    for precision, resolution in itertools.product(precisions, bundle.resolutions):
        preload = [] if resolution == bundle.manifest.default_resolution else ["--preload", str(resolution)]
        with service(bundle, precision, *preload) as server:
            server.wait_until_ready()  # compiles
        with service(bundle, precision, *preload) as server:
            server.wait_until_ready()
            asyncio.run(answer(server, photos, resolution, clients))
            engine = max(workers(server.pid, "engine"))  # the last one to start
            memory = [proportional_mb(server.pid), proportional_mb(engine), resident_mb(server.pid)]
        rows.append([precision, str(resolution), *(f"{value:.0f}" for value in memory)])
    columns = ["all processes, MB", "of it this engine's", "shared memory counted in each, MB"]
    print_table(["precision", "resolution", *columns], rows)


async def answer(server: Server, photos: Sequence[bytes], resolution: int, clients: int) -> None:
    """Have the service answer ANSWERED_IMAGES photographs."""
    async with LoadClient(server.url, connections=clients) as client:
        requests = [client.post(f"/classify?resolution={resolution}", photo, "image/jpeg") for photo in photos]
        supply = itertools.islice(itertools.cycle(requests), ANSWERED_IMAGES)
        answers = await asyncio.gather(*(client.ask(request) for request in supply))
    failed = [answer.status for answer in answers if answer.status != 200]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(answers)} requests were refused, such as with {failed[0]}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |\n|{len(columns) * '---|'}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def spread(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
