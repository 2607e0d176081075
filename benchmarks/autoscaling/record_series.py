"""python -m benchmarks.autoscaling.record_series OUT: metrics of the real service under a load that rises and falls.

`--engine null` answers with zeros at a rate of its own, so that the load is the same on any machine. Other parts are
real: HTTP, decoding, the queue, metrics.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.command_line import BundlePath, run
from benchmarks.machine import line
from tests.support.load import flood
from tests.support.pictures import JPEG
from tests.support.servers import crossvit_serve

RATE = 20.0  # images that the engine gives a second
MAX_QUEUE = 64
LOAD = ((0.0, 4.0), (10.0, 10.0), (50.0, 16.0), (10.0, 12.0), (0.0, 8.0))  # requests a second, for so many seconds
KEPT = (
    "crossvit_queue_images",
    "crossvit_model_ready",
    "crossvit_queue_seconds_bucket",
    "crossvit_inference_seconds_sum",
    "crossvit_decode_seconds_sum",
    "crossvit_decoders",
    "crossvit_rejected_total",
)


def record_series(
    out: Annotated[Path, typer.Argument(help="file of the recording")],
    bundle: BundlePath = Path("artifacts/crossvit_9_dagger"),
    interval: Annotated[float, typer.Option(help="seconds between two scrapes")] = 1.0,
) -> None:
    """Record the series that the ScaledObject asks for."""
    options = ["--engine", "null", f"--null-rate={RATE:g}", "--max-batch=4", f"--max-queue={MAX_QUEUE}", "--decoders=2"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with crossvit_serve(log, "--bundle", str(bundle), "--model-name", "model", *options) as server:
            server.wait_until_ready()
            times, series = asyncio.run(_recorded(server.url, interval))
    recording = {
        "command": "python -m benchmarks.autoscaling.record_series OUT --bundle BUNDLE",
        "service": " ".join(options),
        "machine": line(),
        "rate": RATE,
        "max_queue": MAX_QUEUE,
        "load": LOAD,
        "times": times,
        "series": series,
    }
    out.write_text(json.dumps(recording).replace('"crossvit', '\n"crossvit') + "\n")


async def _recorded(url: str, interval: float) -> tuple[list[float], dict[str, list[float | None]]]:
    scrapes: list[tuple[float, dict[str, float]]] = []
    scraping = asyncio.create_task(_scrape(url, interval, scrapes))
    for rate, seconds in LOAD:
        if rate:
            await flood(url, [JPEG], rate, seconds)  # which awaits the last answers: a queue's time is more
        else:
            await asyncio.sleep(seconds)
    scraping.cancel()
    names = sorted({name for _, values in scrapes for name in values})
    return [round(at, 3) for at, _ in scrapes], {name: [values.get(name) for _, values in scrapes] for name in names}


async def _scrape(url: str, interval: float, scrapes: list[tuple[float, dict[str, float]]]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        started = time.perf_counter()
        while True:
            text = (await client.get("/metrics")).text
            scrapes.append((time.perf_counter() - started, series_of(text)))
            await asyncio.sleep(interval - (time.perf_counter() - started) % interval)


def series_of(text: str, kept: Sequence[str] = KEPT) -> dict[str, float]:
    """The values of the kept metrics by their series, as Prometheus writes them."""
    samples: list[Any] = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.name + "{" + ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items())) + "}": (
            sample.value
        )
        for sample in samples
        if sample.name in kept
    }


if __name__ == "__main__":
    run(record_series, program="benchmarks.autoscaling.record_series")
