"""Bulk runs measured: `python -m benchmarks.bulk images DATA --out FOLDER`, then `speed`, `answers` and `kills`.

`images` makes a folder of many files, of which some are broken. `speed` classifies it in turns: by `crossvit classify`,
by `crossvit bulk` without and with Ray, and by a pipeline as one writes it without this project
(benchmarks/naive_pipeline.py), all in the same precision; images a second with the start of everything, and the peak
memory of all processes, in which shared memory counts once. `answers` compares a sample with what a service answers.
`kills` kills an actor and then the driver of a run on Ray, goes on, and counts files. All report only.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import psutil
import typer
from pyarrow import parquet

from app.commands.bench.http_client import HttpAnswer, LoadClient
from benchmarks.command_line import BundlePath, run
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table, spread
from model.dataset import Dataset
from tests.support.processes import family, proportional_mb
from tests.support.servers import crossvit_serve
from tests.support.waiting import wait_until

LOOK_SECONDS = 0.5  # between looks at the memory

Folder = Annotated[Path, typer.Argument(help="of image files")]
Engine = Annotated[str, typer.Option(help="as in crossvit serve; the naive pipeline has OpenVINO")]
Precision = Annotated[str, typer.Option(help="as in crossvit serve")]
Workers = Annotated[int, typer.Option(min=1, help="actors of Ray, with a CPU each")]


@dataclass(frozen=True)
class Contestant:
    """A way to classify a folder: its command, and the environment that the command needs."""

    name: str
    command: list[str]
    environment: Mapping[str, str]


def images(
    data: Annotated[list[Path], typer.Argument(help="folders, zip files or WebDataset's tar files")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    count: Annotated[int, typer.Option(min=1)] = 20_000,
    broken: Annotated[float, typer.Option(min=0, max=1, help="the share of broken files: cut off, text, empty")] = 0.01,
) -> None:
    """Make a folder of `count` files, 1000 in each folder below it."""
    dataset = Dataset(data)
    damage = (lambda body: body[: len(body) // 2], lambda _: b"no image", lambda _: b"")
    chosen = random.Random(0).sample(range(count), round(count * broken))  # noqa: S311, nothing secret
    damaged = {number: damage[order % 3] for order, number in enumerate(chosen)}
    for number in range(count):
        index = number * len(dataset) // count if count <= len(dataset) else number % len(dataset)
        body = damaged.get(number, bytes)(dataset.read(index))
        path = out / f"{number // 1000:03}" / f"{number:06}{Path(dataset.items[index].name).suffix.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    print(f"{count} files, {len(damaged)} of them broken: {out}")


def speed(
    folder: Folder,
    bundle: BundlePath,
    resolution: int = 128,
    engine: Engine = "openvino",
    precision: Precision = "f32",
    workers: Workers = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path, typer.Option(help="a folder for the results, which is emptied")] = Path("/tmp/bulk-speed"),  # noqa: S108
) -> None:
    """Measure all ways to classify the folder."""
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    contestants = list(ways(folder.absolute(), bundle.absolute(), resolution, engine, precision, workers, out))
    rows = [{"way": each.name} | measured(each, count, out) for _ in range(rounds) for each in contestants]
    frame = pd.DataFrame(rows)
    print(f"{machine()}\n\n{count} files at {resolution} in {precision}, {rounds} rounds, {workers} workers\n")
    groups = frame.groupby("way", sort=False)
    print_table(groups.agg(lambda values: spread(values, ".1f")).reset_index())


def ways(
    folder: Path, bundle: Path, resolution: int, engine: str, precision: str, workers: int, out: Path
) -> Iterator[Contestant]:
    """The contestants, each with a folder for its results below `out`."""
    own = {"CROSSVIT_ENGINE": engine, "CROSSVIT_PRECISION": precision}
    crossvit = [sys.executable, "-m", "app"]
    same = ["--bundle", str(bundle), "--resolution", str(resolution)]
    yield Contestant("crossvit classify", [*crossvit, "classify", str(folder), *same, "--format", "jsonl"], own)
    bulk = [*crossvit, "bulk", str(folder), *same]
    yield Contestant("crossvit bulk", [*bulk, "--out", str(out / "bulk")], own)
    ray = ["--ray", "local", "--workers", str(workers)]
    yield Contestant(f"crossvit bulk --ray, {workers} workers", [*bulk, "--out", str(out / "ray"), *ray], own)
    naive = [sys.executable, "-m", "benchmarks.naive_pipeline", str(folder), str(out / "naive"), str(bundle)]
    yield Contestant("naive Ray Data", [*naive, str(resolution), precision, str(workers + 1)], {})


def measured(contestant: Contestant, count: int, out: Path) -> dict[str, float]:
    """Images a second and peak memory in MB of one run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began = time.perf_counter()
    with (out / "printed").open("wb") as printed:
        process = subprocess.Popen(
            contestant.command, env=os.environ | contestant.environment, stdout=printed, stderr=subprocess.STDOUT
        )
        most = 0.0
        while process.poll() is None:
            most = max(most, proportional_mb(process.pid))
            time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - began
    if process.returncode not in (0, 1):  # `crossvit classify` ends so with broken files
        raise RuntimeError(
            f"{contestant.name} ended with {process.returncode}: {(out / 'printed').read_text()[-2000:]}"
        )
    return {"seconds": seconds, "images/s": count / seconds, "peak memory, MB": most}


def answers(
    results: Annotated[Path, typer.Argument(help="the folder of a run's results")],
    bundle: BundlePath,
    resolution: int = 128,
    engine: Engine = "openvino",
    precision: Precision = "f32",
    limit: Annotated[int, typer.Option(min=1)] = 500,
) -> None:
    """Compare a sample of the rows with what a service answers for the same files."""
    rows = parquet.read_table(results).to_pandas()
    problems = rows[rows["problem"].notna()].head(limit // 10)
    good = rows[rows["problem"].isna()]
    sample = pd.concat([problems, good.sample(min(limit, len(good)) - len(problems), random_state=0)])
    bodies = {path: Path(path).read_bytes() for path in sample["id"]}
    options = ["--bundle", str(bundle), "--engine", engine, "--precision", precision, "--preload", str(resolution)]
    with crossvit_serve(None, *options) as server:
        server.wait_until_ready()
        found = asyncio.run(_asked(server.url, resolution, sample, bodies))
    same = sum(each["same"] for each in found)
    worst = max(each["difference"] for each in found)
    print(
        f"{same} of {len(found)} rows are the service's answers, {len(problems)} of them problems; "
        f"scores differ by at most {worst:.1e}"
    )


async def _asked(url: str, resolution: int, sample: pd.DataFrame, bodies: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Whether each row is the answer of the service, and by how much its scores differ."""
    found = []
    async with LoadClient(url) as client:
        for row in sample.itertuples():
            path = f"/classify?resolution={resolution}"
            answer = await client.ask(client.post(path, bodies[row.id], "image/jpeg"))
            assert isinstance(answer, HttpAnswer), answer
            found.append(compared(row, answer))
    return found


def compared(row: Any, answer: HttpAnswer) -> dict[str, Any]:
    """Whether the row is the answer, and by how much their scores differ."""
    content = json.loads(answer.body)
    if row.problem is not None:
        expected = (row.problem["status"], row.problem["reason"])
        return {"same": (content["status"], content["reason"]) == expected, "difference": 0.0}
    pairs = list(zip(row.predictions, content["predictions"], strict=True))
    same = [one["index"] for one, _ in pairs] == [other["index"] for _, other in pairs]
    return {"same": same, "difference": max(abs(one["score"] - other["score"]) for one, other in pairs)}


def kills(
    folder: Folder,
    bundle: BundlePath,
    out: Annotated[Path, typer.Option(help="a new folder for the results")],
    resolution: int = 128,
    engine: Engine = "openvino",
    precision: Precision = "f32",
    workers: Workers = 3,
    part_size: Annotated[int, typer.Option(min=1)] = 500,
) -> None:
    """Kill an actor at a quarter of a run on Ray and its driver at a half; go on, and count."""
    command = [sys.executable, "-m", "app", "bulk", str(folder), "--out", str(out), "--bundle", str(bundle)]
    command += ["--resolution", str(resolution), "--part-size", str(part_size)]
    command += ["--ray", "local", "--workers", str(workers)]
    environment = os.environ | {"CROSSVIT_ENGINE": engine, "CROSSVIT_PRECISION": precision}
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    parts = -(-len(files) // part_size)

    def reached(share: float) -> str:
        wait_until(lambda: len(list(out.glob("part-*.parquet"))) >= parts * share, 3600, 0.2)
        return f"at {len(list(out.glob('part-*.parquet')))} of {parts} parts"

    first = subprocess.Popen(command, env=environment)
    where = reached(0.25)
    actor = next(pid for pid in family(first.pid) if "BulkActor" in " ".join(psutil.Process(pid).cmdline()))
    os.kill(actor, signal.SIGKILL)
    print(f"killed an actor {where}", flush=True)
    where = reached(0.5)
    first.kill()
    first.wait()
    print(f"killed the driver {where}", flush=True)
    subprocess.run(command, env=environment, check=True)
    rows = parquet.read_table(out).to_pandas()
    once = sorted(rows["id"]) == files
    print(f"{len(files)} files, {len(rows)} rows, {rows['problem'].notna().sum()} with a problem; each once: {once}")


if __name__ == "__main__":
    run(images, speed, answers, kills, program="benchmarks.bulk")
