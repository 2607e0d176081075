"""The run's side of a contestant: calls to its process, and its errors."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.processes.channel import Arrays, Values
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from benchmarks.contest.results import Entry
from tests.support.processes import proportional_mb

START_SECONDS = 300  # importing libraries


@dataclass(frozen=True)
class Kind:
    """What a contestant is called in tables, the class that makes it, and what that is told when it loads."""

    title: str
    factory: str
    values: tuple[str, ...] = ()


class Player:
    """A contestant's process, and what became of it. What fails is written down, and it plays no more."""

    def __init__(self, contestant: str, kind: Kind) -> None:
        self.entry = Entry(contestant, kind.title)
        self.kind = kind
        self._worker: Worker | None = None

    @property
    def plays(self) -> bool:
        return self.entry.error is None

    @property
    def compiles(self) -> bool:
        """Whether each batch size takes torch.compile minutes."""
        return "compile" in self.entry.contestant

    def start(self) -> None:
        """Start the process, which imports its libraries."""
        with self._noting("start"):
            factory = f"benchmarks.contest.{self.kind.factory}"
            self._worker = Worker(self.entry.contestant, factory, seconds=START_SECONDS, keep_environment=True)

    def call(self, method: str, values: Values, arrays: Arrays, seconds: float) -> tuple[Values, Arrays] | None:
        """What the contestant's method gives; None if it fails, or has failed before."""
        if not self.plays or self._worker is None:
            return None
        with self._noting(method):
            return self._worker.call(method, values, arrays, seconds=seconds)
        return None

    def prepare(self, batch: int, seconds: float) -> None:
        """As `call`, but a batch size that fails, for want of memory say, leaves the others to play with."""
        if not self.plays or self._worker is None:
            return
        with self._noting("prepare"):
            try:
                (first,), _ = self._worker.call("prepare", [batch], [], seconds=seconds)
                self.entry.first_seconds[batch] = first
            except WorkerFailed as err:
                self.entry.failed[batch] = _last_line(err)
                say(f"{self.entry.title} at batch {batch}: {err}")

    def memory_mb(self) -> float:
        """What its process has now, shared memory counted once: what loading took for a while is not in it."""
        return proportional_mb(self._worker.pid) if self._worker is not None and self._worker.alive else 0.0

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (WorkerDied, WorkerHung) as err:
            self.entry.error = f"{what}: {err}"
        except WorkerFailed as err:
            self.entry.error = f"{what}: {_last_line(err)}"
            say(str(err))
        except Exception as err:  # the service's own errors, such as BadBundle
            self.entry.error = f"{what}: {err}"
        if self.entry.error:
            say(f"{self.entry.title}: {self.entry.error}")
            self.close()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _last_line(err: WorkerFailed) -> str:
    """Of a traceback the line that says what it was."""
    return re.sub(r"^(\w+\.)+(?=\w+: )", "", str(err).strip().splitlines()[-1])
