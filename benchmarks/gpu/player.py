"""The run's side of a contestant: calls to its process, and its errors."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.processes.channel import Arrays, Values
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from benchmarks.gpu.results import Entry

PYTORCH = {  # source, compiled
    "timm-eager": ("timm", False),
    "timm-compile": ("timm", True),
    "module-eager": ("module", False),
    "module-compile": ("module", True),
}
ENGINES = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "onnxruntime")
PRECISIONS = ("f32", "fp16", "bf16")
CONTESTANTS = tuple(f"{kind}-{precision}" for kind in (*PYTORCH, *ENGINES) for precision in PRECISIONS)
START_SECONDS = 300  # importing libraries


class Player:
    """A contestant's process, and what became of it. What fails is written down, and it plays no more."""

    def __init__(self, contestant: str) -> None:
        self.entry = Entry(contestant)
        self._worker: Worker | None = None

    @property
    def plays(self) -> bool:
        return self.entry.error is None

    def start(self) -> None:
        """Start the process, which imports its libraries."""
        kind = self.entry.contestant.rpartition("-")[0]
        factory = "benchmarks.gpu.pytorch:Torch" if kind in PYTORCH else "benchmarks.gpu.engines:Ours"
        with self._noting("start"):
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
                say(f"{self.entry.contestant} at batch {batch}: {err}")

    def memory_mb(self) -> float:
        """The most that its process has had resident."""
        if self._worker is None or not self._worker.alive:
            return 0.0
        status = Path(f"/proc/{self._worker.pid}/status").read_text()
        return float(status.partition("VmHWM:")[2].split()[0]) / 1000

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
            say(f"{self.entry.contestant}: {self.entry.error}")
            self.close()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _last_line(err: WorkerFailed) -> str:
    """Of a traceback the line that says what it was."""
    return re.sub(r"^(\w+\.)+(?=\w+: )", "", str(err).strip().splitlines()[-1])
