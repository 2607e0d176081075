"""Accuracy against images a second of a cascade and of its steps: `python -m benchmarks.cascade steps DATA --bundle B`.

BUNDLE has a cascade of `crossvit calibrate`; the images should be others than those of its fit (`--part`). All ways to
answer are measured in turns on one running server, `rounds` times, by clients that wait for their answers. Beside the
fitted threshold some others are measured, at which given shares of images are sent on.

`overload` sends more than the dear step can answer, with and without --brown-out, and counts what was answered and how
much of it is right. Both report only.
"""

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from app.commands.bench.http_client import LoadClient
from app.commands.bench.load_generator import Load, LoadRun, drive
from app.commands.evaluate.evaluation import sample
from benchmarks.command_line import BundlePath, run
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from bundle.bundle_errors import ExplainedError
from bundle.calibration import CascadeFit, add_calibrations
from bundle.reader import Bundle, open_bundle
from model.dataset import Dataset
from tests.support.servers import crossvit_serve

ADMIN_KEY = "benchmark"  # of the server, which ends with it
SHARES = (0.25, 0.5, 0.75)  # of the images that are sent on

Data = Annotated[list[Path], typer.Argument(help="folders, zip files or WebDataset's tar files")]
Second = Annotated[Path | None, typer.Option(help="the bundle of the dear step, where it is another one")]
Part = Annotated[str | None, typer.Option(help="of the images, as crossvit evaluate has it")]


@dataclass
class Way:
    """A way to answer: the options of its requests, and the cascade's threshold where that matters."""

    name: str
    query: str
    threshold: float | None = None
    rates: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    second: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Image:
    category: str
    body: bytes


def steps(
    data: Data,
    bundle: BundlePath,
    second: Second = None,
    part: Part = None,
    limit: Annotated[int, typer.Option(min=1, help="images for each way, shared out to the rounds")] = 1200,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    clients: Annotated[int, typer.Option(min=1)] = 16,
    engine: str = "auto",
    precision: str = "auto",
    plot: Annotated[Path | None, typer.Option(help="a PNG file for the plot")] = None,
) -> None:
    """Measure a cascade at several thresholds, and each of its steps alone."""
    images = read(data, part, limit)
    with served(bundle, second, ["--engine", engine, "--precision", precision]) as (url, fit, own, set_threshold):
        first_query = f"model={own.name}&resolution={fit.first.resolution}"
        second_query = f"model={fit.second.model or own.name}&resolution={fit.second.resolution}"
        ways = [Way("first step alone", first_query), Way("second step alone", second_query)]
        asyncio.run(measure(url, ways[0], images[::rounds], clients))  # loads; its scores give the thresholds
        asyncio.run(measure(url, ways[1], images[:clients], clients))
        ordered = sorted(ways[0].scores)
        auto = f"model={own.name}&resolution=auto"
        ways.append(Way("cascade, as fitted", auto, fit.threshold))
        ways += [Way(f"cascade, {share:.0%} sent on", auto, ordered[int(share * len(ordered))]) for share in SHARES]
        for way in ways:
            way.rates, way.correct, way.second, way.latencies = [], [], [], []
        for number in range(rounds):
            for way in ways:
                if way.threshold is not None:
                    set_threshold(way.threshold)
                asyncio.run(measure(url, way, images[number::rounds], clients))
    print(f"{machine()}\n\n{len(images)} images in {rounds} rounds, {clients} clients, {own.name}\n")
    print_table(pd.DataFrame([row(way, ways[1]) for way in ways]))
    if plot:
        draw(ways, plot)


def overload(
    data: Data,
    bundle: BundlePath,
    second: Second = None,
    part: Part = None,
    limit: Annotated[int, typer.Option(min=1, help="number of different images")] = 1000,
    seconds: Annotated[float, typer.Option(help="of each run")] = 20,
    clients: Annotated[int, typer.Option(min=1, help="that ask again at once after an answer")] = 64,
    queue_seconds: Annotated[float, typer.Option(help="--max-queue-seconds of the service")] = 1,
    brown_out: Annotated[str, typer.Option(help="--brown-out of the second run")] = "0.2,0.5",
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    engine: str = "auto",
    precision: str = "auto",
) -> None:
    """Send more than the dear step can answer, with and without a brown-out."""
    images = read(data, part, limit)
    options = ["--engine", engine, "--precision", precision, "--max-queue-seconds", str(queue_seconds)]
    rows = []
    for _ in range(rounds):
        for name, more in (("without", []), (f"--brown-out {brown_out}", ["--brown-out", brown_out])):
            with served(bundle, second, [*options, *more]) as (url, fit, own, _threshold):
                dear = fit.second.model or own.name
                for requests, query in (
                    ("resolution=auto", f"model={own.name}&resolution=auto"),
                    ("none named", f"model={dear}"),
                ):
                    rows.append(
                        {"requests": requests, "brown-out": name}
                        | asyncio.run(flooded(url, query, images, clients, seconds))
                    )
    print(f"{machine()}\n")
    frame = pd.DataFrame(rows)
    medians = frame.groupby(["requests", "brown-out"], sort=False).median(numeric_only=True).reset_index()
    print_table(medians.round({"answered a second": 1, "refused": 3, "right": 3, "by the first step": 3, "p95, s": 2}))


def read(data: Sequence[Path], part: str | None, limit: int) -> list[Image]:
    dataset = Dataset(list(data))
    return [Image(dataset.items[index].category, dataset.read(index)) for index in sample(len(dataset), limit, part)]


@contextmanager
def served(
    bundle: Path, second: Path | None, options: Sequence[str]
) -> Iterator[tuple[str, CascadeFit, Bundle, Callable[[float], None]]]:
    """A server of copies of the bundles: its URL, the cascade, its bundle, and what sets another threshold."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copytree(each, Path(folder) / each.resolve().name)) for each in (bundle, second) if each]
        own = open_bundle(copies[0])
        own.close()
        if not own.calibration.cascades:
            raise ExplainedError(f"{bundle} has no cascade; crossvit calibrate … --cascade fits one")
        fit = own.calibration.cascades[0]
        resolutions = [
            str(step.resolution)
            for step in (fit.first, fit.second)
            if step.model is None and step.resolution != own.manifest.default_resolution
        ]
        more = ["--preload", ",".join(resolutions)] if resolutions else []
        log = Path(folder) / "log"
        with crossvit_serve(
            log, "--bundle", folder, "--default-model", own.name, "--admin-keys", ADMIN_KEY, *more, *options
        ) as server:
            server.wait_until_ready()

            def set_threshold(threshold: float) -> None:
                add_calibrations(own.path, own.manifest, (), fit.model_copy(update={"threshold": threshold}))
                asyncio.run(reloaded(server.url))

            yield server.url, fit, own, set_threshold


async def reloaded(url: str) -> None:
    async with LoadClient(url, ADMIN_KEY) as client:
        answer = await client.ask(client.post("/admin/reload", b""))
        assert answer.status == 200, answer.body


async def measure(url: str, way: Way, images: Sequence[Image], clients: int) -> None:
    """Ask for each image once, and add what came to `way`."""
    remaining = iter(images)
    began = time.perf_counter()
    async with LoadClient(url) as client:

        async def ask_next() -> None:
            for image in remaining:
                sent = time.perf_counter()
                answer = await client.ask(client.post(f"/classify?top_k=1&{way.query}", image.body))
                if answer.status != 200:
                    raise ExplainedError(f"{way.name}: {answer.status} {answer.body[:300]!r}")
                way.latencies.append(time.perf_counter() - sent)
                add(way, image, json.loads(answer.body))

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(ask_next())
    way.rates.append(len(images) / (time.perf_counter() - began))


def add(way: Way, image: Image, answer: dict[str, Any]) -> None:
    best = answer["predictions"][0]
    way.correct.append(image.category in (best["wnid"], best["label"], str(best["index"])))
    way.scores.append(best["score"])
    way.second.append(answer.get("step", {}).get("number", 1) == 2)


def row(way: Way, second: Way) -> dict[str, str]:
    ratios = [one / other for one, other in zip(way.rates, second.rates, strict=True)]
    percentiles = statistics.quantiles(way.latencies, n=100)
    return {
        "": way.name,
        "threshold": "" if way.threshold is None else f"{way.threshold:.3f}",
        "by the second step": "" if way.threshold is None else f"{statistics.mean(way.second):.1%}",
        "top-1": f"{statistics.mean(way.correct):.2%}",
        "images/s": f"{statistics.median(way.rates):.1f}",
        "of the second step's": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        "p50, p99, ms": f"{1000 * percentiles[49]:.0f}, {1000 * percentiles[98]:.0f}",
    }


def draw(ways: Sequence[Way], path: Path) -> None:
    """Accuracy over images a second."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = {way.name: (statistics.median(way.rates), 100 * statistics.mean(way.correct)) for way in ways}
    curve = sorted(point for name, point in points.items() if name.startswith("cascade, ") and "sent on" in name)
    ends = [points["second step alone"], *curve, points["first step alone"]]
    axes.plot(*zip(*sorted(ends), strict=True), "-", color="tab:blue", alpha=0.4)
    for name, (rate, accuracy) in points.items():
        alone = name.endswith("alone")
        axes.plot(rate, accuracy, "s" if alone else "o", color="tab:gray" if alone else "tab:blue")
        place = (6, -12) if alone else (6, 4)  # a step and a cascade that sends nearly all on are close together
        axes.annotate(name.removeprefix("cascade, "), (rate, accuracy), place, textcoords="offset points", fontsize=8)
    axes.set_xlabel("images a second, median of the rounds")
    axes.set_ylabel("top-1, %")
    axes.margins(0.25, 0.15)
    figure.savefig(path, format="png", dpi=120)


async def flooded(url: str, query: str, images: Sequence[Image], clients: int, seconds: float) -> dict[str, float]:
    """What came of requests that are sent as fast as `clients` get their answers, after a warm-up."""
    way = Way("", query)
    numbers = iter(range(10**9))
    async with LoadClient(url) as client:
        ask, found = asker(client, way, images, numbers)
        start = time.perf_counter() + seconds / 5
        load = LoadRun(Load(clients=clients), start, start + seconds)
        await drive(load, ask)
    counted = [each for each in load.samples if start <= each.done <= load.end]
    good = sorted(each.done - each.due for each in counted if each.good)
    if not good:
        raise ExplainedError("the service answered nothing")
    return {
        "answered a second": len(good) / seconds,
        "refused": 1 - len(good) / len(counted),
        "right": statistics.mean(found.correct),
        "by the first step": 1 - statistics.mean(found.second),
        "p95, s": good[int(0.95 * len(good))],
    }


def asker(
    client: LoadClient, way: Way, images: Sequence[Image], numbers: Iterator[int]
) -> tuple[Callable[[], Awaitable[Any]], Way]:
    async def ask() -> Any:
        image = images[next(numbers) % len(images)]
        answer = await client.ask(client.post(f"/classify?top_k=1&{way.query}", image.body))
        if answer.status == 200:
            found = json.loads(answer.body)
            add(way, image, found)
            if "step" not in found:  # what was asked for, which is the second step of the cascade
                way.second[-1] = True
        return answer

    return ask, way


if __name__ == "__main__":
    run(steps, overload, program="benchmarks.cascade")
