"""Load on a service from a process of its own: clients that wait for their answers, or requests at a fixed rate.

`python -m benchmarks.contest.load URL FIELD SECONDS clients|rate NUMBER PHOTO…` prints a LoadRound as JSON.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

from app.commands.bench.http_client import LoadClient
from app.commands.bench.load_generator import Load, LoadRun, drive
from benchmarks.contest.results import LoadRound

BOUNDARY = "crossvit-benchmark"
PATH = "/classify"
ANSWER_SECONDS = 120  # the longest that an answer may take


def put_on(url: str, field: str, load: Load, seconds: float, photos: Sequence[Path]) -> LoadRound:
    """A round of `load` on the service at `url`; `field` is what the multipart field is called there."""
    kind, number = ("clients", load.clients) if load.rate is None else ("rate", load.rate)
    command = [sys.executable, "-m", "benchmarks.contest.load", url, field, str(seconds), kind, str(number)]
    limit = 2 * seconds + 2 * ANSWER_SECONDS
    said = subprocess.run([*command, *photos], stdout=subprocess.PIPE, text=True, check=True, timeout=limit).stdout
    found = json.loads(said)
    return LoadRound(**found | {"answers": [(due, done) for due, done in found["answers"]]})


def multipart(field: str, photo: bytes) -> bytes:
    """The body of a form with one file."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


async def measure(url: str, field: str, load: Load, seconds: float, photos: Sequence[bytes]) -> LoadRound:
    """Requests are sent for `seconds`, and the last answers awaited."""
    async with LoadClient(url, seconds=ANSWER_SECONDS) as client:
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
        requests = cycle([client.post(PATH, multipart(field, photo), content_type) for photo in photos])
        start = time.perf_counter()
        run = LoadRun(load, start, start + seconds)
        await drive(run, lambda: client.ask(next(requests)))
    good = sorted((sample for sample in run.samples if sample.good), key=lambda sample: sample.done)
    answers = [(round(sample.due - start, 6), round(sample.done - start, 6)) for sample in good]
    return LoadRound(seconds, answers, len(run.samples) - len(good), round(run.client_seconds, 4), load.rate)


def main(arguments: Sequence[str]) -> None:
    url, field, seconds, kind, number, *files = arguments
    load = Load(rate=float(number)) if kind == "rate" else Load(clients=int(number))
    photos = [Path(file).read_bytes() for file in files]
    print(json.dumps(asdict(asyncio.run(measure(url, field, load, float(seconds), photos)))))


if __name__ == "__main__":
    main(sys.argv[1:])
