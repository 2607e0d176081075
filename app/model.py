"""A bundle that serves: from an image's bytes to its classes."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from app.batcher import Batcher
from app.bundle import Bundle, Label
from app.engines import Engine, Logits
from app.errors import BadParameter
from app.image import Pixels, decode

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The best classes with their scores (softmax), the best first, and the seconds that each stage took."""

    classes: list[tuple[Label, float]]
    resolution: int
    decode: float
    queue: float
    inference: float


class Model:
    """Classifies images with one bundle and one engine. Use as an async context manager; leaving it drains.

    Decoding runs in threads of its own, the engine in the batcher's: the event loop is left here and nowhere else.
    """

    def __init__(self, bundle: Bundle, engine: Engine, *, max_batch: int, max_pixels: int) -> None:
        self.bundle = bundle
        self.engine = engine
        self._max_pixels = max_pixels
        self._batcher = Batcher[Pixels, Logits](lambda images: list(engine.run(np.stack(images))), max_batch)
        self._decoders = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        self._loads: dict[int, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "Model":
        await self._batcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._decoders.shutdown()
        await self._batcher.__aexit__()

    @property
    def loaded(self) -> list[int]:
        """The resolutions that the engine is ready for."""
        return sorted(resolution for resolution, load in self._loads.items() if load.done() and not load.exception())

    async def load(self, resolution: int) -> None:
        """Make the engine ready for `resolution`; requests at others go on meanwhile."""
        if resolution not in self._loads:
            side = self.bundle.manifest.preprocessing[resolution].crop
            self._loads[resolution] = asyncio.create_task(asyncio.to_thread(self.engine.load, side))
        try:
            # If the client that asked first goes away, others may be waiting for the same.
            await asyncio.shield(self._loads[resolution])
        except Exception:
            self._loads.pop(resolution, None)  # the next request tries again
            raise

    async def classify(self, body: bytes, top_k: int, resolution: int | None = None) -> Answer:
        """The `top_k` best classes of the encoded image in `body`, fewer if the model has fewer.

        Raises BadParameter for a resolution that the bundle lacks, and what app.image.decode raises.
        """
        resolution = self.resolution(resolution)
        steps = self.bundle.manifest.preprocessing[resolution]
        pixels, decode_wait, decode_seconds = await self._in_decoder(lambda: decode(body, steps, self._max_pixels))
        await self.load(resolution)
        answer = await self._batcher.submit(resolution, pixels)
        classes = [(self.bundle.labels[index], score) for index, score in top(answer.result, top_k)]
        return Answer(classes, resolution, decode_seconds, decode_wait + answer.queue, answer.inference)

    def resolution(self, asked: int | None) -> int:
        """The resolution to serve; BadParameter if the bundle lacks the one that was asked for."""
        if asked is None:
            return self.bundle.manifest.default_resolution
        if asked not in self.bundle.resolutions:
            offered = ", ".join(map(str, self.bundle.resolutions))
            raise BadParameter(f"resolution {asked} is not served; one of {offered}")
        return asked

    async def _in_decoder(self, call: Callable[[], T]) -> tuple[T, float, float]:
        """What `call` gives, the seconds that it waited for a thread and those that it took."""
        asked = time.perf_counter()

        def timed() -> tuple[T, float, float]:
            started = time.perf_counter()
            result = call()
            return result, started - asked, time.perf_counter() - started

        return await asyncio.get_running_loop().run_in_executor(self._decoders, timed)


def top(logits: Logits, count: int) -> list[tuple[int, float]]:
    """Index and softmax score of the `count` best classes, the best first; equal ones in index order."""
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max())
    scores = exponentials / exponentials.sum()
    return [(int(index), float(scores[index])) for index in np.argsort(-scores, kind="stable")[:count]]
