"""The HTTP process's side of an engine process: starts it, asks it what it offers, lets it load and run one engine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.decoding.decoder_memory import PixelLocation
from app.engines.interface import EngineRefused
from app.processes.async_worker import AsyncWorker
from app.processes.channel import EMPTY_REPLY, Arrays, Reply, Values
from app.processes.worker import Worker
from bundle.calibration import ScoreCalibration
from bundle.reader import Bundle
from bundle.tensors import OUTPUTS, Outputs

_HEAD_BYTES = 1 << 20  # of an answer, apart from its results
_BYTES_PER_CLASS = 40  # of an index and a score in JSON


@dataclass(frozen=True)
class EngineInput:
    """An image for an engine.

    Attributes:
        location: of its pixels.
        best: how many of its best classes are wanted; 0 for its logits.
    """

    location: PixelLocation
    best: int = 0


@dataclass(frozen=True)
class EngineResult:
    """What was wanted of an image.

    Attributes:
        best: indices and scores of its best classes, the best first.
        outputs: its logits (outputs, classes), without any where the best classes were wanted.
        calibration: of the engine's scores, whose temperature those of the best classes have; None if there is none.
    """

    best: list[tuple[int, float]]
    outputs: Outputs
    calibration: ScoreCalibration | None = None


class EngineProcess:
    """A process for one engine of `bundle` at `resolution`. All calls raise as Worker's do; all but `run` block.

    Attributes:
        name: of the engine, once it is loaded.
        precision: of the engine.
        batch: the most images that a call should hold.
        calls: how many calls of `run` may be on their way.
        image_seconds: what a golden image took.
        compiled: whether loading compiled a model, which the next process only has to read.
        worker: the process.

    Args:
        bundle: has the graphs and plans.
        resolution: whose engine it is.
        memories: the files of the memories that have the images, by the numbers in PixelLocation.
        seconds: that a call may take until the engine is loaded.
        null_rate: as EngineFiles has it.
        background: whether others come first where both want a CPU.
        on_spawn: is told of the worker before it answers, so that it can be killed.
    """

    def __init__(
        self,
        bundle: Bundle,
        resolution: int,
        memories: Sequence[int],
        *,
        seconds: float,
        null_rate: float,
        background: bool,
        on_spawn: Callable[[Worker], None],
    ) -> None:
        self.name = self.precision = ""
        self.batch = self.calls = 1
        self.image_seconds = 0.0
        self.compiled = False
        self._classes = bundle.manifest.classes
        self._golden = bundle.golden(resolution)
        self._seconds = seconds
        self._worker: AsyncWorker | None = None
        self._images_on_way = 0
        plans = bundle.plans.fit.get(resolution, [])
        self.worker = Worker(
            engine_role(bundle, resolution),
            "app.engines.engine_process.engine_host:EngineHost",
            [
                {precision: bundle.graph_sha256(precision) for precision in bundle.graphs},
                [plan.manifest.model_dump_json() for plan in plans],
                bundle.plan_command(resolution),
                self._golden.images.shape[1],
                self._classes,
                bundle.manifest.activation,
                null_rate,
                background,
            ],
            seconds=seconds,
            files=[*bundle.graphs.values(), *(plan.file for plan in plans), *memories],
            keep_environment=True,
            on_spawn=on_spawn,
        )

    def offers(self, name: str) -> tuple[list[str], str | None, str | None]:
        """See EngineHost.offers."""
        (precisions, absent, refused), _ = self.worker.call(
            "offers", [name], [], seconds=self._seconds, reply=EMPTY_REPLY
        )
        return precisions, absent, refused

    def load(self, name: str, precision: str) -> Outputs:
        """Load an engine, one for each process; its logits for the golden images.

        Raises EngineRefused, or BadBundle.
        """
        images = self._golden.images
        (batch, self.calls, self.image_seconds, self.compiled), logits = self.worker.call(
            "load", [name, precision], [images], seconds=self._seconds
        )
        if not logits:
            raise EngineRefused(batch)
        self.name, self.precision, self.batch = name, precision, batch
        return logits[0]

    def time_image(self) -> float:
        """The seconds of an image in the engine's best batch; EngineRefused."""
        (seconds,), _ = self.worker.call("time_image", [], [], seconds=self._seconds, reply=EMPTY_REPLY)
        if isinstance(seconds, str):
            raise EngineRefused(seconds)
        return float(seconds)

    def attend(self, on_end: Callable[[], None]) -> None:
        """Get ready for `run`, after all other calls, in the running event loop; `on_end` is as AsyncWorker has it."""
        self._worker = AsyncWorker(self.worker, on_end)

    async def run(
        self, inputs: Sequence[EngineInput], seconds: float, calibration: ScoreCalibration | None = None
    ) -> list[EngineResult]:
        """The results of `inputs`, within `seconds` or ten times what they took at the start where that is longer.

        With several calls on their way, the time is that of all of them.
        """
        counts = [image.best for image in inputs]
        shape = (len(OUTPUTS), counts.count(0), self._classes)
        best_bytes = _BYTES_PER_CLASS * sum(counts)
        reply = Reply(
            _HEAD_BYTES + best_bytes, 4 * math.prod(shape), raises=(), check=partial(_check_results, counts, shape)
        )
        values = [[image.location for image in inputs], counts, calibration.temperature if calibration else 1.0]
        assert self._worker is not None, "attend has to be called first"
        self._images_on_way += len(inputs)
        try:
            limit = max(seconds * self.calls, 10 * self.image_seconds * self._images_on_way)
            best, (outputs,) = await self._worker.call("run", values, seconds=limit, reply=reply)
        finally:
            self._images_on_way -= len(inputs)
        logits = iter(outputs.transpose(1, 0, 2))
        none = outputs[:, :0].reshape(0, self._classes)
        return [
            EngineResult([(index, score) for index, score in classes], none if count else next(logits), calibration)
            for classes, count in zip(best, counts, strict=True)
        ]

    def release(self) -> None:
        """Make no more calls of `run`, and fail those that are on their way; again is a no-op."""
        if self._worker is not None:
            self._worker.close()

    def kill(self) -> None:
        """End the process, whatever it does; again is a no-op."""
        self.worker.kill()


def engine_role(bundle: Bundle, resolution: int) -> str:
    """What the process is called in lists of processes and in the log."""
    default = resolution == bundle.manifest.default_resolution
    return f"engine {bundle.name}" if default else f"engine {bundle.name} {resolution}"


def _check_results(counts: Sequence[int], shape: tuple[int, int, int], values: Values, arrays: Arrays) -> None:
    """ValueError unless there are logits of that `shape`, and at most so many best classes of each image."""
    (outputs,) = arrays
    if outputs.dtype != np.float32 or outputs.shape != shape:
        raise ValueError(f"outputs of the shape {outputs.shape}")
    for classes, count in zip(values, counts, strict=True):
        if len(classes) > count:
            raise ValueError("more classes than were wanted")
