"""The service under hostile and under too much load: `python -m benchmarks.reliability soak|overload|flood --help`.

Prints Markdown, and reports only.
"""

import asyncio
import base64
import itertools
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Annotated

import httpx
import pandas as pd
import typer
from PIL import Image

from app.commands.bench.http_client import HttpRequest, LoadClient, NoAnswer
from benchmarks.command_line import BundlePath, PhotosFolder, run
from benchmarks.flood import flood
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from benchmarks.photographs import photographs
from bundle.reader import open_bundle
from tests.support.load import capacity, centile, probing
from tests.support.load import flood as open_loop
from tests.support.processes import family, open_files, own_resident_mb, resident_mb, threads
from tests.support.servers import crossvit_serve

Making = Callable[[], HttpRequest]

CLIENTS = 16  # that measure the capacity
LEAVES_WITHIN_SECONDS = (0.001, 0.03)
LEAVES = "left"
ODD_MODES = [("RGBA", "PNG"), ("L", "PNG"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "BMP")]
PATHS = ["/livez", "/readyz", "/metrics", "/models", "/v2", "/nowhere", "/{}"]


def soak(
    photos: PhotosFolder,
    bundle: BundlePath,
    requests: Annotated[int, typer.Option(min=10)] = 100_000,
    clients: int = 12,
    instances: int = 1,
) -> None:
    """Send many requests, good and bad, and print the number of answers by status.

    After every tenth of them it prints memory, open files and threads of the service and its workers; with several
    instances the service's own process is their parent, and they count as its workers.
    """
    bodies, name = photographs(photos), open_bundle(bundle).name
    options = ["--bundle", str(bundle), "--log-level", "error", "--decoders", "0", "--instances", str(instances)]
    with crossvit_serve(None, *options) as server:
        server.wait_until_ready()
        print(f"{name}, {requests:,} requests, {clients} clients, {instances} instances; {machine()}\n")
        columns = ["requests", "seconds", "service, MB", "with workers, MB", "open files", "threads"]
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        print(usage_row("0", "0", server.pid))
        answers = asyncio.run(send(server.url, server.pid, name, bodies, requests, clients))
        time.sleep(2)
        print(usage_row("at rest", "", server.pid))
    print("\n" + ", ".join(f"{status}: {count:,}" for status, count in sorted(answers.items())))


def overload(
    photos: PhotosFolder,
    bundle: BundlePath,
    times: float = 10,
    seconds: float = 60,
    max_queue: int = 64,
    max_batch: int = 0,
    instances: int = 1,
) -> None:
    """Measure the capacity (closed loop), then send so many times as many requests.

    They leave at fixed times, whatever the answers (open loop), while another process asks /livez. The largest batch is
    by default what the engine is best at, as in the service.
    """
    bodies, name = photographs(photos), open_bundle(bundle).name
    options = ["--bundle", str(bundle), "--log-level", "error", "--decoders", "0"]
    options += ["--max-queue", str(max_queue), "--max-batch", str(max_batch), "--instances", str(instances)]
    with crossvit_serve(None, *options) as server:
        server.wait_until_ready()
        batch = largest_batch(server.url)
        rate = asyncio.run(capacity(server.url, bodies, CLIENTS, seconds=10))
        before = resident_mb(server.pid)
        with probing(server.url) as at_rest:
            time.sleep(5)
        with probing(server.url) as under_load:
            outcome = asyncio.run(open_loop(server.url, bodies, times * rate, seconds))
        after = resident_mb(server.pid)
    accepted, refused = outcome.seconds[200], outcome.seconds.get(429, [0.0])
    served = len(accepted) / seconds
    bound = max_queue + 2 * batch
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
    print(f"{name}, {times:g} times its capacity of {rate:.1f}/s for {seconds:g} s; {machine()}\n")
    print_table(pd.DataFrame(rows.items(), columns=["", "measured"]))


class Requests:
    """The kinds of requests, each with its weight; the same ones in every run."""

    def __init__(self, client: LoadClient, model: str, photos: list[bytes]) -> None:
        self._client = client
        self._model = model
        self._rng = random.Random(0)  # noqa: S311, nothing secret
        self._photos = itertools.cycle(photos)
        modes = zip(photos, itertools.cycle(ODD_MODES))
        odd = [_picture(Image.open(BytesIO(photo)).convert(mode), kind) for photo, (mode, kind) in modes]
        large, text = _picture(Image.new("1", (20000, 20000))), b"no image at all"
        self.kinds: list[tuple[int, Making]] = [
            (30, lambda: self._classify(next(self._photos))),
            (5, lambda: self._classify(self._rng.choice(odd))),
            (3, lambda: self._form([next(self._photos), text, next(self._photos)])),
            (4, self._infer),
            (12, lambda: self._classify(self._cut())),
            (12, lambda: self._classify(self._flipped())),
            (8, lambda: self._classify(text)),
            (3, lambda: self._classify(b"")),
            (3, lambda: self._classify(large)),
            (5, lambda: self._classify(next(self._photos), "?top_k=99")),
            (3, lambda: self._classify(next(self._photos), "?model=nobody")),
            (4, lambda: _with_header(self._classify(next(self._photos)), "X-Request-Timeout-Ms", "1")),
            (5, lambda: client.get(self._rng.choice(PATHS).format(self._rng.random()))),
            (3, lambda: _with_header(self._classify(next(self._photos)), LEAVES, "")),
        ]

    def _classify(self, body: bytes, query: str = "") -> HttpRequest:
        return self._client.post(f"/classify{query}", body, "image/jpeg")

    def _form(self, files: list[bytes]) -> HttpRequest:
        form = httpx.Request("POST", self._client.url, files=[("files", ("a", file)) for file in files])
        return self._client.post("/classify/batch", form.read(), form.headers["content-type"])

    def _infer(self) -> HttpRequest:
        data = [base64.b64encode(next(self._photos)).decode()]
        tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": data}
        body = json.dumps({"inputs": [tensor]}).encode()
        return self._client.post(f"/v2/models/{self._model}/infer", body, "application/json")

    def _cut(self) -> bytes:
        photo = next(self._photos)
        return photo[: self._rng.randrange(len(photo))]

    def _flipped(self) -> bytes:
        photo = bytearray(next(self._photos))
        for _ in range(20):
            photo[self._rng.randrange(len(photo))] = self._rng.randrange(256)
        return bytes(photo)


def _with_header(request: HttpRequest, name: str, value: str) -> HttpRequest:
    return replace(request, headers=request.headers | {name: value})


def _picture(image: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


async def ask(client: LoadClient, request: HttpRequest, rng: random.Random) -> str:
    """The status of the answer, or what happened instead of one."""
    try:
        if LEAVES in request.headers:
            async with asyncio.timeout(rng.uniform(*LEAVES_WITHIN_SECONDS)):
                await client.ask(request)
            return LEAVES
        return str((await client.ask(request)).status)
    except TimeoutError:
        return LEAVES
    except NoAnswer as err:
        return str(err)


async def send(url: str, pid: int, model: str, photos: list[bytes], requests: int, clients: int) -> Counter[str]:
    """The number of answers by status. Prints a row of the table after every tenth of the requests."""
    rng = random.Random(1)  # noqa: S311
    answers: Counter[str] = Counter()
    started = time.perf_counter()
    async with LoadClient(url, connections=clients) as client:
        kinds = Requests(client, model, photos).kinds
        order = iter(rng.choices([making for _, making in kinds], [weight for weight, _ in kinds], k=requests))

        async def one() -> None:
            for making in order:
                answers[await ask(client, making(), rng)] += 1
                if answers.total() % (requests // 10) == 0:
                    print(usage_row(f"{answers.total():,}", f"{time.perf_counter() - started:.0f}", pid), flush=True)

        await asyncio.gather(*(one() for _ in range(clients)))
    return answers


def usage_row(requests: str, seconds: str, pid: int) -> str:
    """Resident memory of the service's process and of all its processes, their open files and threads."""
    members = family(pid)
    service, everything = own_resident_mb(pid), resident_mb(pid)
    files, tasks = sum(map(open_files, members)), sum(map(threads, members))
    return f"| {requests} | {seconds} | {service:.1f} | {everything:.0f} | {files} | {tasks} |"


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
    run(soak, overload, flood, program="benchmarks.reliability")
