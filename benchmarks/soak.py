"""Many requests, good and bad: `python -m benchmarks.soak PHOTOS --bundle BUNDLE --requests 100000`.

Prints, as Markdown, the number of answers by status, and after every tenth of the requests the memory, open files and
threads of the service and its workers. Reports only.
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image

from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from benchmarks.server import running
from bundle.file_names import MANIFEST

Request = Callable[[httpx.AsyncClient], Awaitable[str]]


@dataclass(frozen=True)
class Usage:
    """Of the service's process, and of all its processes together: resident memory in MB, open files, threads."""

    service_mb: float
    all_mb: float
    files: int
    threads: int


def usage(pid: int) -> Usage:
    service, everything, files, threads = 0.0, 0.0, 0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            parent, process = (int(re.findall(rf"\n{name}:\t(\d+)", status)[0]) for name in ("PPid", "Pid"))
            if pid not in (parent, process):
                continue
            resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1000
            files += len(list((folder / "fd").iterdir()))
        except (OSError, IndexError):
            continue  # it has just ended
        threads += int(re.findall(r"Threads:\t(\d+)", status)[0])
        everything += resident
        if process == pid:
            service = resident
    return Usage(service, everything, files, threads)


def kinds(photos: list[bytes]) -> list[tuple[int, Request]]:
    """What is sent, each with its weight."""
    rng = random.Random(0)  # noqa: S311, nothing secret
    cycle = itertools.cycle(photos)
    bomb, text = _picture(Image.new("1", (20000, 20000))), b"no image at all"
    odd = [_picture(Image.open(BytesIO(photo)).convert(mode), kind) for photo, mode, kind in zip(photos, *_ODD)]  # noqa: B905

    def classify(body: Callable[[], bytes], query: str = "", **headers: str) -> Request:
        async def send(client: httpx.AsyncClient) -> str:
            headers_ = {"Content-Type": "image/jpeg"} | headers
            return str((await client.post(f"/classify{query}", content=body(), headers=headers_)).status_code)

        return send

    async def batch(client: httpx.AsyncClient) -> str:
        files = [("files", ("a", next(cycle))), ("files", ("b", text)), ("files", ("c", next(cycle)))]
        return str((await client.post("/classify/batch", files=files)).status_code)

    async def infer(client: httpx.AsyncClient) -> str:
        data = [base64.b64encode(next(cycle)).decode()]
        tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": data}
        name = (await client.get("/v2/models/stats")).json()["model_stats"][0]["name"]
        return str((await client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})).status_code)

    async def get(client: httpx.AsyncClient) -> str:
        path = rng.choice(["/livez", "/readyz", "/metrics", "/models", "/v2", "/nowhere", f"/{rng.random()}"])
        return str((await client.get(path)).status_code)

    async def leave(client: httpx.AsyncClient) -> str:
        with contextlib.suppress(httpx.TimeoutException):
            await client.post("/classify", content=next(cycle), timeout=rng.uniform(0.001, 0.03))
        return "left"

    def cut() -> bytes:
        photo = next(cycle)
        return photo[: rng.randrange(len(photo))]

    def flipped() -> bytes:
        photo = bytearray(next(cycle))
        for _ in range(20):
            photo[rng.randrange(len(photo))] = rng.randrange(256)
        return bytes(photo)

    return [
        (30, classify(lambda: next(cycle))),
        (5, classify(lambda: rng.choice(odd))),
        (3, batch),
        (4, infer),
        (12, classify(cut)),
        (12, classify(flipped)),
        (8, classify(lambda: text)),
        (3, classify(lambda: b"")),
        (3, classify(lambda: bomb)),
        (5, classify(lambda: next(cycle), "?top_k=99")),
        (3, classify(lambda: next(cycle), "?model=nobody")),
        (4, classify(lambda: next(cycle), **{"X-Request-Timeout-Ms": "1"})),
        (5, get),
        (3, leave),
    ]


_ODD = (itertools.cycle(["RGBA", "L", "P", "RGB", "RGB"]), itertools.cycle(["PNG", "PNG", "GIF", "WEBP", "BMP"]))


def _picture(image: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


async def soak(url: str, pid: int, photos: list[bytes], requests: int, clients: int) -> Counter[str]:
    weighted = kinds(photos)
    rng = random.Random(1)  # noqa: S311
    order = rng.choices([request for _, request in weighted], [weight for weight, _ in weighted], k=requests)
    answers: Counter[str] = Counter()
    supply = iter(order)
    started = time.perf_counter()

    async def client(http: httpx.AsyncClient) -> None:
        for request in supply:
            try:
                answers[await request(http)] += 1
            except httpx.TransportError as err:
                answers[type(err).__name__] += 1
            done = answers.total()
            if done % (requests // 10) == 0:
                now = usage(pid)
                print(
                    f"| {done:,} | {time.perf_counter() - started:.0f} | {now.service_mb:.1f} | {now.all_mb:.0f} "
                    f"| {now.files} | {now.threads} |",
                    flush=True,
                )

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of images")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=12)
    args = parser.parse_args()
    photos = photographs(args.photos)
    options = ["--log-level", "error", "--grace-seconds", "0", "--bundle", str(args.bundle), "--port"]
    with running([sys.executable, "-m", "app", "serve", *options]) as server:
        name = json.loads((args.bundle / MANIFEST).read_text())["variant"]
        print(f"{name}, {args.requests:,} requests, {args.clients} clients; {machine()}\n")
        print(
            "| requests | seconds | service, MB | with workers, MB | open files | threads |\n|---|---|---|---|---|---|"
        )
        before = usage(server.pid)
        print(f"| 0 | 0 | {before.service_mb:.1f} | {before.all_mb:.0f} | {before.files} | {before.threads} |")
        answers = asyncio.run(soak(server.url, server.pid, photos, args.requests, args.clients))
        time.sleep(2)
        after = usage(server.pid)
        print(f"| at rest | | {after.service_mb:.1f} | {after.all_mb:.0f} | {after.files} | {after.threads} |")
    print("\n" + ", ".join(f"{status}: {count:,}" for status, count in sorted(answers.items())))


if __name__ == "__main__":
    main()
