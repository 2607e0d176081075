"""The cost of serving beside decoding and inference: `python -m benchmarks.service_cost PHOTOS --bundle BUNDLE`.

Prints tables as Markdown, and reports only:

- Interleaved rounds of the engine alone in its process, of decoding on one core, and of the service with one client and
  with many. Serving adds the time of an answer to one client less decoding and an engine call. With many clients the
  result is the share of the rate that the same cores could reach with only decoding and the engine.
- The stages of those answers, as their `timing_ms` has them, and the processor time of the service's processes.
- With --starts, services that start in turns from the compiled cache, timed from the command to the first 200 of
  /readyz, and their memory after they have answered.
- With --engine null, which computes nothing, what a request costs: answers a second, the processor time of each kind of
  process for an answer, and the share of each station of the front end; for several numbers of clients, and for raw
  bodies, forms, tensors and batches. wrk sends the load. With --other the service of another checkout is measured in
  turns with this one's.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from app.commands.bench.http_client import HttpAnswer, LoadClient
from app.commands.bench.load_generator import Load
from app.decoding.image_decoding import decode
from app.engines.engine_process.supervisor import EngineSupervisor
from app.engines.registry import NULL_ENGINE
from app.machine.cpus import usable_cpus
from benchmarks.command_line import BundlePath, PhotosFolder, run
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table, spread
from benchmarks.photographs import photographs
from benchmarks.request_cost import print_comparison, print_request_costs, tiny_image
from bundle.reader import Bundle, open_bundle
from bundle.tensors import Images
from model.files.pixels import TRUSTED_MAX_PIXELS
from tests.support.load import driven
from tests.support.processes import own_cpu_seconds, proportional_mb, resident_mb, workers
from tests.support.servers import Server, crossvit_serve

STAGES = ["decode", "queue", "inference"]
NULL_MAX_QUEUE = 4096  # no client is refused
ANSWERING_SECONDS = 3  # before memory is read


def service_cost(
    photos: PhotosFolder,
    bundle: BundlePath,
    precision: str = "auto",
    clients: Annotated[int, typer.Option(help="the many")] = 16,
    rounds: int = 5,
    seconds: Annotated[float, typer.Option(help="of each part of a round")] = 5,
    starts: Annotated[int, typer.Option(help="of each precision")] = 0,
    engine: Annotated[str, typer.Option(help="null: what a request costs, apart from the engine")] = "auto",
    null_clients: Annotated[str, typer.Option(help="with --engine null: the numbers of clients")] = "1,16,64,256",
    null_rate: Annotated[float, typer.Option(help="with --engine null: as in `crossvit serve`")] = 0,
    tiny: Annotated[
        bool, typer.Option(help="with --engine null: one tiny image, so that decoding costs little")
    ] = False,
    other: Annotated[Path | None, typer.Option(help="with --engine null: a checkout to compare with")] = None,
) -> None:
    """Compare the service with its own engine and with decoding; several precisions (a,b) are started in turns."""
    bodies, opened, precisions = photographs(photos), open_bundle(bundle), precision.split(",")
    bodies = [tiny_image()] if tiny else bodies
    print(f"{opened.name}, {len(bodies)} photographs; {machine()}\n")
    if engine == NULL_ENGINE:
        options = ["--bundle", str(bundle.resolve()), "--engine", engine, "--null-rate", str(null_rate)]
        options += ["--max-queue", str(NULL_MAX_QUEUE)]
        counts = [int(count) for count in null_clients.split(",")]
        if other is None:
            print_request_costs(opened, bodies, options, counts, rounds, seconds)
        else:
            print_comparison(opened, bodies, other.resolve(), options, counts, rounds, seconds)
        return
    if rounds:
        print_costs(opened, bodies, precisions[0], clients, rounds, seconds)
    if starts:
        print_starts(opened, bodies, precisions, starts, clients)


def service(bundle: Bundle, precision: str, *options: str) -> AbstractContextManager[Server]:
    """A service with its own number of decoders."""
    all_options = ["--bundle", str(bundle.path), "--precision", precision, "--log-level", "error", "--decoders", "0"]
    return crossvit_serve(None, *all_options, *options)


def print_costs(
    bundle: Bundle, photos: Sequence[bytes], precision: str, clients: int, count: int, seconds: float
) -> None:
    with service(bundle, precision) as server:
        server.wait_until_ready()
        server.pause()
        rounds, answers, engine = asyncio.run(measure_costs(bundle, photos, server, precision, clients, count, seconds))
    print(f"{engine}: medians of {len(rounds)} rounds of {seconds:g} s for each part, least and largest.\n")
    print_table(pd.DataFrame(rounds).agg(lambda values: spread(values, ".1f")).to_frame().T)
    print("Medians in ms; processor time is the mean for a request.\n")
    answers["rest in the service"] = answers["total"] - answers[STAGES].sum(axis=1)
    answers["rest outside"] = answers["client"] - answers["total"]
    columns = ["client", *STAGES, "rest in the service", "rest outside", "CPU HTTP", "CPU decoders"]
    print_table(answers.groupby("clients")[columns].median().round(2).reset_index())


async def measure_costs(
    bundle: Bundle, photos: Sequence[bytes], server: Server, precision: str, many: int, count: int, seconds: float
) -> tuple[list[dict[str, float]], pd.DataFrame, str]:
    """A row for each round, a row for each answer, and a description of the engine."""
    resolution = bundle.manifest.default_resolution
    steps = bundle.manifest.preprocessing[resolution]
    engine = EngineSupervisor(bundle, resolution, engine="auto", precision=precision, run_seconds=60, load_seconds=300)
    await engine.start()
    rounds, answers = [], []
    try:
        pixels = [decode(photo, steps, TRUSTED_MAX_PIXELS) for photo in photos]
        batch = np.stack(list(itertools.islice(itertools.cycle(pixels), engine.batch)))
        with server.turn():
            await put_on(server, photos, many, 2)  # warms up
        for _ in range(count):
            alone = np.median(await engine_calls(engine, batch[:1], seconds))
            batched = np.mean(await engine_calls(engine, batch, seconds)) / len(batch)
            decoding = repeated(lambda photo: decode(photo, steps, TRUSTED_MAX_PIXELS), photos, seconds / 2)
            with server.turn():
                _, of_one = await put_on(server, photos, 1, seconds)
            with server.turn():
                rate, of_many = await put_on(server, photos, many, seconds)
            one_ms, alone_ms, decode_ms = of_one["client"].median(), 1000 * alone, 1000 * np.median(decoding)
            rounds.append({
                "engine alone, one image, ms": alone_ms,
                "engine alone, images/s": 1 / batched,
                "decoding on one core, ms": decode_ms,
                "one client, ms": one_ms,
                "added, ms": one_ms - decode_ms - alone_ms,
                f"{many} clients, answers/s": rate,
                "% of what the cores could": 100 * rate * (batched + np.mean(decoding) / usable_cpus()),
            })  # fmt: skip
            answers += [of_one, of_many]
    finally:
        await engine.close()
    what = f"{bundle.name} at {resolution} in {engine.precision}, batches of up to {engine.batch}"
    return rounds, pd.concat(answers), what


async def put_on(server: Server, photos: Sequence[bytes], clients: int, seconds: float) -> tuple[float, pd.DataFrame]:
    """Answers a second to clients that send their next photograph when they have an answer, and a row of ms for each.

    A row has `timing_ms`, the time that the client saw, and the processor time that a request took on the average.
    """
    processes = [server.pid, *workers(server.pid, "decoder")]
    async with LoadClient(server.url) as client:
        requests = [client.post("/classify", photo, "image/jpeg") for photo in photos]
        before = [own_cpu_seconds(pid) for pid in processes]
        run, elapsed = await driven(client, requests, Load(clients=clients), seconds)
    http, *decoders = (own_cpu_seconds(pid) - used for pid, used in zip(processes, before, strict=True))
    good = [(sample, sample.answer) for sample in run.samples if sample.good and isinstance(sample.answer, HttpAnswer)]
    found = pd.DataFrame([json.loads(answer.body)["timing_ms"] for _, answer in good])
    found["client"] = [1000 * (sample.done - sample.due) for sample, _ in good]
    found["clients"] = clients
    found["CPU HTTP"], found["CPU decoders"] = 1000 * http / len(run.samples), 1000 * sum(decoders) / len(run.samples)
    return len(good) / elapsed, found


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


def print_starts(bundle: Bundle, photos: Sequence[bytes], precisions: Sequence[str], starts: int, clients: int) -> None:
    """Each precision and resolution is started once more than is measured, to compile."""
    rows = []
    for start, precision, resolution in itertools.product(range(starts + 1), precisions, bundle.resolutions):
        preload = [] if resolution == bundle.manifest.default_resolution else ["--preload", str(resolution)]
        started = time.perf_counter()
        with service(bundle, precision, *preload) as server:
            server.wait_until_ready()
            seconds = time.perf_counter() - started
            if start:
                asyncio.run(put_on(server, photos, clients, ANSWERING_SECONDS))
                memory = [proportional_mb(server.pid), resident_mb(server.pid)]
                rows.append([precision, resolution, seconds, *memory])
    columns = ["precision", "resolution", "ready after, s", "all processes, MB", "shared memory counted in each, MB"]
    print(f"{starts} starts of each in turns: medians, least and largest.\n")
    found = pd.DataFrame(rows, columns=columns).groupby(columns[:2])
    print_table(found.agg(lambda values: spread(values, ".2f" if values.max() < 100 else ".0f")).reset_index())


if __name__ == "__main__":
    run(service_cost, program="benchmarks.service_cost")
