"""Debian's Prometheus, filled with series that were recorded, and asked as KEDA asks it."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.servers import free_port
from tests.support.waiting import wait_until

PROMETHEUS, PROMTOOL = shutil.which("prometheus") or "", shutil.which("promtool") or ""
EPOCH = 1_700_000_000  # when the recorded series begin, for Prometheus


@contextmanager
def prometheus_of(
    series: Mapping[str, Sequence[float | None]], times: Sequence[float], folder: Path
) -> Iterator[httpx.Client]:
    """A server that has these series, by `name{labels}`, at `times` after EPOCH."""
    lines = [
        f"{name} {value} {EPOCH + at:.3f}\n"
        for name, values in sorted(series.items())
        for at, value in zip(times, values, strict=True)
        if value is not None
    ]
    (folder / "series.txt").write_text("".join([*lines, "# EOF\n"]))
    (folder / "prometheus.yml").write_text("")
    command = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", str(folder / "series.txt"), str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_until(lambda: _ready(client), 30, poll_seconds=0.1)
            yield client
    finally:
        process.terminate()
        process.wait()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def values_of(client: httpx.Client, query: str, times: Sequence[float]) -> list[float | None]:
    """The value of `query` at each of `times`, None where it has none; KEDA takes the only sample."""
    found: list[float | None] = []
    for at in times:
        answer = client.get("/api/v1/query", params={"query": query, "time": f"{EPOCH + at:.3f}"}).json()
        assert answer["status"] == "success", answer
        samples = answer["data"]["result"]
        assert len(samples) <= 1, samples
        found.append(float(samples[0]["value"][1]) if samples else None)
    return found
