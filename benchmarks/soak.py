"""Many requests, good and bad: `python -m benchmarks.soak PHOTOS --bundle BUNDLE --requests 100000`.

Prints, as Markdown, the number of answers by status, and after every tenth of the requests the memory, open files and
threads of the service and its workers. Reports only.
"""

import argparse
import asyncio
import base64
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import psutil
from PIL import Image

from app.commands.bench.http_client import HttpRequest, LoadClient, NoAnswer
from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from bundle.bundle_errors import BadBundle
from bundle.reader import open_bundle
from tests.support.processes import family
from tests.support.servers import crossvit_serve

Making = Callable[[], HttpRequest]

LEAVES_WITHIN_SECONDS = (0.001, 0.03)
LEAVES = "left"
ODD_MODES = [("RGBA", "PNG"), ("L", "PNG"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "BMP")]
PATHS = ["/livez", "/readyz", "/metrics", "/models", "/v2", "/nowhere", "/{}"]


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


async def soak(url: str, pid: int, model: str, photos: list[bytes], requests: int, clients: int) -> Counter[str]:
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
    megabytes, files, threads = {}, 0, 0
    for member in family(pid):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            process = psutil.Process(member)
            with process.oneshot():
                megabytes[member] = process.memory_info().rss / 1e6
                files, threads = files + process.num_fds(), threads + process.num_threads()
    everything = sum(megabytes.values())
    return f"| {requests} | {seconds} | {megabytes[pid]:.1f} | {everything:.0f} | {files} | {threads} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of images")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=12)
    args = parser.parse_args()
    photos = photographs(args.photos)
    try:
        bundle = open_bundle(args.bundle)
    except BadBundle as err:
        parser.error(str(err))
    with crossvit_serve(None, "--bundle", str(args.bundle), "--log-level", "error", "--decoders", "0") as server:
        server.wait_until_ready()
        name = bundle.manifest.variant
        print(f"{name}, {args.requests:,} requests, {args.clients} clients; {machine()}\n")
        print(
            "| requests | seconds | service, MB | with workers, MB | open files | threads |\n|---|---|---|---|---|---|"
        )
        print(usage_row("0", "0", server.pid))
        answers = asyncio.run(soak(server.url, server.pid, bundle.name, photos, args.requests, args.clients))
        time.sleep(2)
        print(usage_row("at rest", "", server.pid))
    print("\n" + ", ".join(f"{status}: {count:,}" for status, count in sorted(answers.items())))


if __name__ == "__main__":
    main()
