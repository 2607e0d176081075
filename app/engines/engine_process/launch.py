"""The HTTP process's side of an engine process: starts it, asks it what it offers, lets it load and run one engine."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.engines.interface import EngineRefused
from app.processes.channel import EMPTY_REPLY, Arrays, Reply, Values
from app.processes.shared_buffer import SharedBuffer
from app.processes.worker import Worker
from bundle.reader import Bundle
from bundle.tensors import OUTPUTS, Images, Outputs

_HEAD_BYTES = 1 << 20  # of an answer, apart from its logits


class EngineProcess:
    """A process for one engine of `bundle` at `resolution`. Blocking; all calls raise as Worker's do.

    Attributes:
        name: of the engine, once it is loaded.
        precision: of the engine.
        batch: the most images that a call should hold.
        image_seconds: what a golden image took.
        compiled: whether loading compiled a model, which the next process only has to read.
        worker: the process.

    Args:
        bundle: has the graphs and plans.
        resolution: whose engine it is.
        buffer: memory that is shared with the process, in which images are handed over.
        seconds: that a call may take until the engine is loaded.
        null_rate: as EngineFiles has it.
        on_spawn: is told of the worker before it answers, so that it can be killed.
    """

    def __init__(
        self,
        bundle: Bundle,
        resolution: int,
        buffer: SharedBuffer,
        *,
        seconds: float,
        null_rate: float,
        on_spawn: Callable[[Worker], None],
    ) -> None:
        self.name = self.precision = ""
        self.batch = 1
        self.image_seconds = 0.0
        self.compiled = False
        self._classes = bundle.manifest.classes
        self._golden = bundle.golden(resolution)
        self._buffer = buffer
        self._seconds = seconds
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
                null_rate,
            ],
            seconds=seconds,
            files=[*bundle.graphs.values(), *(plan.file for plan in plans), buffer.file],
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
        (batch, self.image_seconds, self.compiled), logits = self.worker.call(
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

    def run(self, images: Images | Sequence[NDArray[np.uint8]], seconds: float) -> Outputs:
        """The logits of `images`, within `seconds` or ten times what they took at the start where that is longer."""
        shape = (len(images), *images[0].shape)
        for place, image in zip(self._buffer.array(*shape), images, strict=True):
            place[...] = image
        array_bytes = 4 * len(OUTPUTS) * len(images) * self._classes
        check = partial(_check_outputs, (len(OUTPUTS), len(images), self._classes))
        reply = Reply(_HEAD_BYTES, array_bytes, raises=(), check=check)
        limit = max(seconds, 10 * self.image_seconds * len(images))
        _, (outputs,) = self.worker.call("run", [shape], [], seconds=limit, reply=reply)
        return outputs

    def kill(self) -> None:
        """End the process, whatever it does; again is a no-op."""
        self.worker.kill()


def engine_role(bundle: Bundle, resolution: int) -> str:
    """What the process is called in lists of processes and in the log."""
    default = resolution == bundle.manifest.default_resolution
    return f"engine {bundle.name}" if default else f"engine {bundle.name} {resolution}"


def _check_outputs(shape: tuple[int, int, int], values: Values, arrays: Arrays) -> None:
    """ValueError unless the answer is one array of logits of that `shape`."""
    (outputs,) = arrays
    if values or outputs.dtype != np.float32 or outputs.shape != shape:
        raise ValueError(f"outputs of the shape {outputs.shape}")
