"""The measured side of a contestant: it runs in a process of its own, which `engine_contest` calls.

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
PROFILED_CALLS = 10
MIN_CALLS = 2  # of a round


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
        self._largest = 1

    @abstractmethod
    def _start(self, task: Task, *values: Any) -> str:
        """Make what answers; returns a note to stand beside its name."""

    @abstractmethod
    def _run(self, images: Images) -> Logits:
        """From pixels in the host's memory to logits there."""

    def _settle(self) -> None:  # noqa: B027, most have nothing to do
        """Give back memory that only preparing took."""

    def _profile(self, call: Callable[[], object]) -> str:
        """Where the time of PROFILED_CALLS calls goes, as a table, or that this is not known."""
        del call
        return f"{type(self).__name__} has no profile here"

    def load(self, task: dict[str, Any], *values: Any) -> tuple[Values, Arrays]:
        """The seconds it took, and a note; `values` are the kind's, and the photographs."""
        *rest, self._photos = values
        started = time.perf_counter()
        note = self._start(Task(**task), *rest)
        return [time.perf_counter() - started, note], []

    def prepare(self, batch: int) -> tuple[Values, Arrays]:
        """Compile and warm up for `batch`; the seconds of the first call."""
        started = time.perf_counter()
        self._run(self._batch(batch, 0))
        first = time.perf_counter() - started
        for call in range(WARM_UP_CALLS):
            self._run(self._batch(batch, call))
        self._settle()
        self._largest = max(self._largest, batch)
        return [first], []

    def answers(self) -> tuple[Values, Arrays]:
        """The logits of all photographs, in the largest batches that were prepared."""
        calls = -(-len(self._photos) // self._largest)
        logits = [self._run(self._batch(self._largest, call)) for call in range(calls)]
        return [], [np.concatenate(logits)[: len(self._photos)]]

    def measure(self, batch: int, seconds: float) -> tuple[Values, Arrays]:
        """The seconds of each call, at least MIN_CALLS of them."""
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < MIN_CALLS or time.perf_counter() < end:
            images = self._batch(batch, len(times))
            started = time.perf_counter()
            self._run(images)
            times.append(time.perf_counter() - started)
        return [], [np.array(times)]

    def profile(self, batch: int) -> tuple[Values, Arrays]:
        """Where the time goes at `batch`."""
        images = self._batch(batch, 0)
        return [self._profile(lambda: self._run(images))], []

    def _batch(self, batch: int, call: int) -> Images:
        """The photographs of a call: others than those of the call before, if there are enough."""
        return self._photos[np.arange(call * batch, (call + 1) * batch) % len(self._photos)]
