"""The measured side of a contestant: it runs in a process of its own, which `player` calls.

Methods return what a worker process can send: JSON values and arrays.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.processes.channel import Arrays, Values

Images = NDArray[np.uint8]  # (batch, side, side, 3), RGB
Logits = NDArray[np.float32]  # (batch, classes)

WARM_UP_CALLS = 5  # after the one that compiles or allocates
ROTATED_BATCHES = 2  # so that no call finds its pixels where the last one left them
PROFILED_CALLS = 10


@dataclass(frozen=True)
class Task:
    """What all contestants load: a bundle at a resolution, images of `side` pixels, and the weights of both.

    `weights` is a file or "untrained"; `device` is PyTorch's.
    """

    bundle: str
    variant: str
    resolution: int
    side: int
    weights: str
    device: str


class Contestant(ABC):
    """Answers batches of photographs. `load`, then `prepare` each batch size, then anything else."""

    def __init__(self) -> None:
        os.dup2(2, 1)  # what libraries print is not for the table
        self._photos: Images = np.empty((0, 0, 0, 3), np.uint8)
        self._pools: dict[int, list[Images]] = {}

    @abstractmethod
    def _start(self, task: Task, *values: Any) -> dict[str, Any]:
        """Make what answers; the facts about it go into the report, "note" beside its name."""

    @abstractmethod
    def _run(self, images: Images) -> Logits:
        """From pixels in the host's memory to logits there."""

    def _profile(self, call: Callable[[], object]) -> dict[str, Any]:
        """The times of PROFILED_CALLS calls: {"kernels": [[name, count, milliseconds], …], …}, or a "note"."""
        del call
        return {"note": f"{type(self).__name__} has no profile here"}

    def _settle(self) -> None:  # noqa: B027, most have nothing to do
        """Give back memory that only preparing took."""

    def _device_seconds(self, images: Images, seconds: float) -> list[float]:
        """Seconds of calls on the device alone, with the pixels there already; none where that cannot be had."""
        del images, seconds
        return []

    def load(self, task: dict[str, Any], *values: Any) -> tuple[Values, Arrays]:
        """The seconds it took, and the facts; `values` are the kind's, and the photographs."""
        *rest, self._photos = values
        started = time.perf_counter()
        facts = self._start(Task(**task), *rest)
        return [time.perf_counter() - started, facts], []

    def prepare(self, batch: int) -> tuple[Values, Arrays]:
        """Compile and warm up for `batch`; the seconds of the first call."""
        numbers = np.arange(ROTATED_BATCHES * batch) % len(self._photos)
        pool = list(self._photos[numbers].reshape(ROTATED_BATCHES, batch, *self._photos.shape[1:]))
        started = time.perf_counter()
        self._run(pool[0])
        first = time.perf_counter() - started
        for call in range(WARM_UP_CALLS):
            self._run(pool[call % ROTATED_BATCHES])
        self._settle()
        self._pools[batch] = pool
        return [first], []

    def answers(self) -> tuple[Values, Arrays]:
        """The logits of all photographs, and one call of each prepared batch, so that all memory is taken."""
        for pool in self._pools.values():
            self._run(pool[0])
        count, piece = len(self._photos), max(self._pools)
        padded = self._photos[np.arange(-(-count // piece) * piece) % count]
        pieces = [self._run(padded[start : start + piece]) for start in range(0, len(padded), piece)]
        return [], [np.concatenate(pieces)[:count]]

    def measure(self, batch: int, seconds: float, calls: int) -> tuple[Values, Arrays]:
        """The seconds of each call, at least `calls` of them; and those on the device alone, if they can be had."""
        pool = self._pools[batch]
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < calls or time.perf_counter() < end:
            started = time.perf_counter()
            self._run(pool[len(times) % ROTATED_BATCHES])
            times.append(time.perf_counter() - started)
        return [], [np.array(times), np.array(self._device_seconds(pool[0], seconds / 2))]

    def profile(self, batch: int) -> tuple[Values, Arrays]:
        """Where the time goes at `batch`."""
        pool = self._pools[batch]
        return [self._profile(lambda: self._run(pool[0]))], []
