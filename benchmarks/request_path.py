"""The time of a request, by stages: `python -m benchmarks.request_path PHOTOS --bundle BUNDLE`.

Starts a service. Each client posts a photograph as a form, and the next one when it has the answer. The stages are
those of the answers' `timing_ms`; further columns have the rest of the time, and the processor time of the service's
processes for a request. Then times single steps in this process. Prints Markdown, and reports only.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from pydantic import TypeAdapter
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser

from app.api.multipart import MultipartForm
from app.api.schemas import Classification
from app.decoding.image_decoding import decode
from app.serving.served_model import top
from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from benchmarks.server import running
from model.files.jpeg import jpeg_essentials
from model.spec import PREPROCESSING
from tests.support.processes import workers

BOUNDARY = "0123456789abcdef"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
CHUNK_BYTES = 1 << 16
ROUNDS = 200
STAGES = ("decode", "queue", "inference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of JPEGs")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    photos = photographs(args.photos)
    print(f"{args.bundle.name}, {len(photos)} photographs; {machine()}\n")
    print("Medians in ms; the processor time is the mean.\n")
    names = [
        "clients",
        "requests/s",
        "client",
        *STAGES,
        "rest in the service",
        "rest outside",
        "CPU HTTP",
        "CPU decoders",
    ]
    print(f"| {' | '.join(names)} |\n|{len(names) * '---|'}")
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(args.bundle), "--engine", "openvino"]
    with running([*command, "--precision", "f32", "--port"]) as server:
        drive(server.url, photos, clients=2, seconds=2)
        for clients in args.clients:
            before = cpu(server.pid)
            rows = drive(server.url, photos, clients, args.seconds)
            used = [(after - start) / len(rows) for start, after in zip(before, cpu(server.pid), strict=True)]
            print(f"| {clients} | {len(rows) / args.seconds:.1f} | {' | '.join(medians(rows))} | {columns(used)} |")
        answer = post(http.client.HTTPConnection(urlsplit(server.url).netloc), form(photos[0]))
    print("\n| station | µs |\n|---|---|")
    for name, seconds in stations(photos[0], answer).items():
        print(f"| {name} | {1e6 * seconds:.0f} |")


def form(photo: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n\r\n'
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def post(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    connection.request("POST", "/classify", body, {"Content-Type": KIND})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        sys.exit(answer.decode())
    return answer


def drive(url: str, photos: list[bytes], clients: int, seconds: float) -> list[dict[str, float]]:
    """The timings of all requests, the client's own as `client`."""
    rows: list[dict[str, float]] = []
    forms = [form(photo) for photo in photos]
    end = time.perf_counter() + seconds

    def client(first: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        for body in itertools.cycle(forms[first:] + forms[:first]):
            if (started := time.perf_counter()) > end:
                return
            answer = post(connection, body)
            took = 1000 * (time.perf_counter() - started)
            rows.append(json.loads(answer)["timing_ms"] | {"client": took})

    threads = [threading.Thread(target=client, args=(7 * number % len(forms),)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows


def medians(rows: list[dict[str, float]]) -> list[str]:
    inside = [row["total"] - sum(row[stage] for stage in STAGES) for row in rows]
    outside = [row["client"] - row["total"] for row in rows]
    return [
        f"{statistics.median(found):.2f}"
        for found in (*([row[name] for row in rows] for name in ("client", *STAGES)), inside, outside)
    ]


def cpu(pid: int) -> list[float]:
    """Milliseconds of processor time of the HTTP process, and of its decoders."""
    return [_cpu(pid), sum(map(_cpu, workers(pid, "decoder")))]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def columns(values: list[float]) -> str:
    return " | ".join(f"{value:.2f}" for value in values)


def stations(photo: bytes, answer: bytes) -> dict[str, float]:
    """Medians, in seconds."""
    steps = PREPROCESSING[224]
    small, large = form(photo), form(bytes(10_000_000 - 1000))
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    adapter = TypeAdapter(Classification)
    classification = adapter.validate_json(answer)
    return {
        f"a form of {len(small):,} bytes, taken apart": asyncio.run(forms(ours, small, ROUNDS)),
        "the same by Starlette": asyncio.run(forms(starlettes, small, ROUNDS)),
        f"a form of {len(large):,} bytes": asyncio.run(forms(ours, large, 10)),
        "this one by Starlette": asyncio.run(forms(starlettes, large, 10)),
        "decoding the photograph": median(lambda: decode(photo, steps, 50_000_000), 20),
        "finding what of the JPEG makes its pixels": median(lambda: jpeg_essentials(photo), ROUNDS),
        "the same by bytes.count": median(lambda: photo.count(b"\xff\xda"), ROUNDS),
        "the five best of 1000 classes": median(lambda: top(logits, 5), ROUNDS),
        "validating and serialising the answer": median(
            lambda: adapter.dump_json(adapter.validate_python(classification, from_attributes=True)), ROUNDS
        ),
    }


def median(work: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


async def forms(take: Callable[[bytes], Awaitable[bytes]], body: bytes, rounds: int) -> float:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        await take(body)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


async def pieces(body: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]


async def ours(body: bytes) -> bytes:
    parts = MultipartForm(KIND, "file", max_files=1, max_fields=8)
    async for piece in pieces(body):
        parts.feed(piece)
    return parts.files[0].content


async def starlettes(body: bytes) -> bytes:
    parser = MultiPartParser(Headers({"content-type": KIND}), pieces(body), max_files=1, max_fields=8)
    parser.spool_max_size = 10_000_000
    file = (await parser.parse())["file"]
    assert isinstance(file, UploadFile)
    return await file.read()


if __name__ == "__main__":
    main()
