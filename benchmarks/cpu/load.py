"""Load on a server: wrk in a closed loop, and requests at a fixed rate from a process of its own."""

import asyncio
import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.overload import flood

BOUNDARY = "crossvit-benchmark"
PATH = "/classify"
NO_WRK = "the closed loop needs wrk, and there is none: install it with apt install wrk (or brew install wrk)"
BATCH_GAP_MS = 20.0  # longest between answers of one batch
ANSWER_SECONDS = 120  # the longest that an answer may take
SCRIPT = Path(__file__).with_name("post.lua")


@dataclass
class Closed:
    """A round in which each client posts its next photograph when it has the answer to the last.

    `requests` were answered in `seconds`, of these `status_errors` with another status than 2xx or 3xx; connections
    broke `broken` times. `latencies` are pairs of microseconds and how many requests took that long: wrk adds, for
    those that took more than twice the usual, what the client would have sent meanwhile. `answered` are the
    milliseconds from the start to each answer with status 200, in order.
    """

    clients: int
    requests: int
    seconds: float
    status_errors: int
    broken: int
    latencies: list[tuple[int, int]] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good answers a second, from the first batch of them to the last: at its ends a round has half a batch.

        The first batch ends with the first gap, or when each client may have had an answer.
        """
        if not self.answered:
            return 0.0
        gaps = [later - earlier for earlier, later in itertools.pairwise(self.answered)]
        first = 1 + sum(1 for _ in itertools.takewhile(lambda gap: gap <= BATCH_GAP_MS, gaps[: self.clients - 1]))
        if first == len(self.answered):
            return first / self.seconds  # a single batch: the round was too short to see more
        return 1000 * (len(self.answered) - first) / (self.answered[-1] - self.answered[first - 1])

    @property
    def errors(self) -> int:
        return self.status_errors + self.broken


@dataclass
class Fixed:
    """A round in which requests leave at fixed times: seconds of each good answer from when it was due."""

    rate: float
    seconds: list[float]
    errors: int


class Load:
    """Posts photographs to whatever server; `field` is what the multipart field is called there."""

    def __init__(self, folder: Path, photos: Sequence[bytes]) -> None:
        self._folder = folder
        self._photos = photos

    def closed(self, url: str, field: str, clients: int, seconds: float) -> Closed:
        """A round of wrk with `clients` connections."""
        command = [_wrk(), "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", f"--timeout={ANSWER_SECONDS}s"]
        command += ["-s", str(SCRIPT), url + PATH, "--", BOUNDARY, *self._bodies(field)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return parsed(said, clients)

    def fixed(self, port: int, field: str, rate: float, seconds: float) -> Fixed:
        """A round of `rate` requests a second, all of them waited for."""
        command = [sys.executable, "-m", "benchmarks.cpu.load", str(port), str(rate), str(seconds)]
        command += self._bodies(field)
        limit = 2 * seconds + ANSWER_SECONDS
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit).stdout
        return Fixed(**json.loads(said))

    def _bodies(self, field: str) -> list[str]:
        paths = [self._folder / f"{field}-{number}" for number in range(len(self._photos))]
        for path, photo in zip(paths, self._photos, strict=True):
            if not path.exists():
                path.write_bytes(multipart(field, photo))
        return [str(path) for path in paths]


@contextmanager
def load_of(photos: Sequence[bytes]) -> Iterator[Load]:
    """The bodies are written to a folder for as long."""
    _wrk()
    with TemporaryDirectory() as folder:
        yield Load(Path(folder), photos)


def multipart(field: str, photo: bytes) -> bytes:
    """The body of a form with one file."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def parsed(said: str, clients: int) -> Closed:
    """What post.lua printed, among what wrk itself prints."""
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"wrk printed no result: {said.strip() or 'nothing at all'}")
    found = json.loads(lines[-1])
    pairs = [(int(microseconds), int(count)) for microseconds, count in found["latencies"]]
    counts = found["requests"], found["microseconds"] / 1e6, found["status_errors"], found["broken"]
    return Closed(clients, *counts, pairs, found["answered"])


def percentile(pairs: Sequence[tuple[float, int]], percent: float) -> float:
    """The smallest value that `percent` of the counted values do not exceed; nan of none."""
    total = sum(count for _, count in pairs)
    wanted = max(math.ceil(total * percent / 100), 1)
    for value, seen in _running_counts(sorted(pairs)):
        if seen >= wanted:
            return value
    return math.nan


def _running_counts(pairs: Sequence[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    counts = itertools.accumulate(count for _, count in pairs)
    return zip((value for value, _ in pairs), counts, strict=True)


def _wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise FileNotFoundError(NO_WRK)
    return found


def main(arguments: Sequence[str]) -> None:
    """PORT RATE SECONDS BODY…: the process that sends at a fixed rate."""
    port, rate, seconds, *files = arguments
    requests = [_request(Path(file).read_bytes()) for file in files]
    outcome = asyncio.run(flood(int(port), requests, float(rate), float(seconds)))
    good = outcome.seconds.pop(200, [])
    errors = sum(map(len, outcome.seconds.values()))
    print(json.dumps(asdict(Fixed(float(rate), [round(taken, 6) for taken in good], errors))))


def _request(body: bytes) -> bytes:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: service\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main(sys.argv[1:])
