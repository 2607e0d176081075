"""The HTTP process's side of an inspection process: started at its first use, checked, started again when it fails."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.decoding.decoder_memory import PixelLocation
from app.errors import EngineFailed, EngineHung, NotReady, WrongAnswers
from app.processes.async_worker import AsyncWorker
from app.processes.channel import Arrays
from app.processes.shared_memory import SharedMemory
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from bundle.bundle_errors import ExplainedError
from bundle.file_names import INSPECTION
from bundle.golden import mismatch
from bundle.precisions import F32
from bundle.reader import Bundle
from bundle.tensors import Outputs

log = logging.getLogger(__name__)

INSPECTION_ENGINE = "onnxruntime"
MOST_IMAGES = 8  # in a call: more give no more images a second on a CPU, and take memory

_OWN_BYTES = 1 << 30  # for golden images; what is not used takes no memory
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds in which nothing is started after a failed start


@dataclass(frozen=True)
class InspectionInput:
    """An image to inspect.

    Attributes:
        location: of its pixels.
        classes: to explain, by index; -1 is the image's best class, -2 its second best, …; none for no maps.
    """

    location: PixelLocation
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassMap:
    """What the patches of each branch give to the logit of the class `index`, each (grid, grid)."""

    index: int
    small: NDArray[np.float32]
    large: NDArray[np.float32]


@dataclass(frozen=True)
class InspectedImage:
    """What the inspection graph says of an image.

    Attributes:
        outputs: its logits (outputs, classes).
        embeddings: of the branches, small and large (width,).
        attention: of the branches, small and large (grid, grid), if classes were to be explained.
        maps: of these classes, in their order.
    """

    outputs: Outputs
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32]]
    attention: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    maps: list[ClassMap]

    def embeddings_of(
        self, branch: Literal["both", "small", "large"]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The embeddings of `branch`, small and large; that of a branch which is left out is empty."""
        small, large = self.embeddings
        return (small[:0] if branch == "large" else small), (large[:0] if branch == "small" else large)


class Inspector:
    """Runs `bundle`'s inspection graph, in float32 on the CPU, in a process that starts at the first call.

    A resolution answers once its golden images gave the recorded logits. A process that fails is started again by the
    next call; after a failed start there is a pause, which grows.

    Args:
        bundle: has the graph and the golden images.
        memories: the files of the decoders' memories, by the numbers in PixelLocation.
        run_seconds: that a call may take, or ten times what its images took at the start where that is longer.
        load_seconds: that the start may take.
        on_restart: is called with a reason each time the process is lost.
    """

    def __init__(
        self,
        bundle: Bundle,
        memories: Sequence[int],
        *,
        run_seconds: float,
        load_seconds: float,
        on_restart: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bundle = bundle
        self._memory = SharedMemory(_OWN_BYTES)
        self._memories = [*memories, self._memory.file]
        self._run_seconds = run_seconds
        self._load_seconds = load_seconds
        self._on_restart = on_restart
        self._worker: AsyncWorker | None = None
        self._spawned: list[Worker] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"inspection-{bundle.name}")
        self._ending: asyncio.Task[None] | None = None  # of a process that has ended by itself
        self._loading = asyncio.Lock()
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._image_seconds: dict[int, float] = {}  # by resolution, of those that are checked
        self._pause = _FIRST_PAUSE
        self._no_start_before = -math.inf
        self._closed = False

    async def inspect(self, resolution: int, images: Sequence[InspectionInput]) -> list[InspectedImage]:
        """What the graph says of `images`; one call at a time may be made.

        Raises EngineFailed or EngineHung if the process fails, NotReady soon after it could not be started, and
        WrongAnswers or BadBundle if its files are not what they should be.
        """
        await self._load(resolution)
        return await self._run(resolution, images)

    async def close(self) -> None:
        """End the process; its memory is free then."""
        self._closed = True
        for load in self._loads.values():
            load.cancel()
        if self._worker is not None:
            self._worker.close()
        for worker in list(self._spawned):
            await asyncio.to_thread(worker.kill)
        await asyncio.gather(*self._loads.values(), return_exceptions=True)
        # Its thread has an end now, and must not start another process with a file that is closed by then.
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._memory.close()

    async def _load(self, resolution: int) -> None:
        if resolution in self._image_seconds:
            return
        if resolution not in self._loads:
            self._loads[resolution] = asyncio.create_task(self._start_and_check(resolution))
        load = self._loads[resolution]
        try:
            await asyncio.shield(load)  # if the first client goes away, others may be waiting for the same
        finally:
            if load.done():
                self._loads.pop(resolution, None)

    async def _start_and_check(self, resolution: int) -> None:
        async with self._loading:
            await self._start()
            golden = self._bundle.golden(resolution)
            self._memory.array(0, *golden.images.shape)[...] = golden.images
            offsets = range(0, golden.images.nbytes, golden.images[0].nbytes)
            inputs = [InspectionInput(PixelLocation(len(self._memories) - 1, offset)) for offset in offsets]
            began = time.perf_counter()
            found = await self._run(resolution, inputs, self._load_seconds)
            seconds = (time.perf_counter() - began) / len(inputs)
            wrong = mismatch(golden, np.stack([image.outputs for image in found], axis=1), F32)
            if wrong:
                await self._end("wrong", wrong)
                raise WrongAnswers(f"{self._bundle.name} at {resolution}: the inspection graph gives {wrong}")
            self._image_seconds[resolution] = seconds

    async def _start(self) -> None:
        if self._worker is not None:
            return
        remaining = self._no_start_before - time.perf_counter()
        if remaining > 0:
            why = f"{self._bundle.name}: what explains could not be started; the log says why"
            raise NotReady(why, retry_after=math.ceil(remaining))
        log.info("%s: the inspection process is starting", self._bundle.name)
        try:
            started = await asyncio.get_running_loop().run_in_executor(self._thread, self._spawn)
        except (ExplainedError, WorkerDied, WorkerHung, WorkerFailed, OSError) as err:
            self._no_start_before, self._pause = time.perf_counter() + self._pause, min(2 * self._pause, _LONGEST_PAUSE)
            log.error("%s: the inspection process cannot start: %s", self._bundle.name, err)
            if isinstance(err, ExplainedError):
                raise
            raise EngineFailed("what explains cannot start; the log says why") from err
        self._worker = AsyncWorker(started, self._ended)
        self._pause = _FIRST_PAUSE

    def _spawn(self) -> Worker:
        assert self._bundle.inspection is not None
        files = self._bundle.manifest.files
        return Worker(
            f"inspection {self._bundle.name}",
            "app.inspection.inspection_host:InspectionHost",
            [files[INSPECTION], self._bundle.graph_sha256(F32)],
            seconds=self._load_seconds,
            files=[self._bundle.inspection, self._bundle.graphs[F32], *self._memories],
            keep_environment=True,
            on_spawn=self._has_spawned,
        )

    def _has_spawned(self, worker: Worker) -> None:
        self._spawned.append(worker)
        if self._closed:
            raise WorkerDied("closed meanwhile")

    async def _run(
        self, resolution: int, images: Sequence[InspectionInput], seconds: float | None = None
    ) -> list[InspectedImage]:
        side = self._bundle.manifest.preprocessing[resolution].crop
        values = [side, [image.location for image in images], [image.classes for image in images]]
        if seconds is None:
            seconds = max(self._run_seconds, 10 * self._image_seconds[resolution] * len(images))
        worker = self._worker
        if worker is None:  # it ended just now
            raise EngineFailed("what explains failed; the next request starts it again")
        try:
            _, arrays = await worker.call("run", values, seconds=seconds)
        except WorkerHung as err:
            await self._end("hung", err)
            raise EngineHung("what explains did not answer in time; the next request starts it again") from err
        except (WorkerDied, WorkerFailed) as err:
            await self._end("died" if isinstance(err, WorkerDied) else "failed", err)
            raise EngineFailed("what explains failed; the next request starts it again") from err
        return _inspected(images, arrays)

    def _ended(self) -> None:
        """The process has ended while it had nothing to do, or sends what was not requested."""
        worker = self._forget("ended", "while it had nothing to do")
        if worker is not None:
            self._ending = asyncio.create_task(worker.kill())

    async def _end(self, reason: str, err: object) -> None:
        worker = self._forget(reason, err)
        if worker is not None:
            await worker.kill()

    def _forget(self, reason: str, err: object) -> AsyncWorker | None:
        """What has failed is not used any more."""
        worker, self._worker = self._worker, None
        self._image_seconds.clear()
        if worker is not None and not self._closed:
            log.error("%s: the inspection process %s: %s", self._bundle.name, reason, err)
            self._on_restart(reason)
            self._spawned.remove(worker.worker)
        return worker


def _inspected(images: Sequence[InspectionInput], arrays: Arrays) -> list[InspectedImage]:
    outputs, small, large, *of_explained = arrays
    explained = iter(zip(*of_explained, strict=True))
    found = []
    for index, image in enumerate(images):
        attention, maps = None, []
        if image.classes:
            classes, attention_small, attention_large, of_small, of_large = next(explained)
            attention = (attention_small, attention_large)
            count = len(image.classes)
            of_classes = zip(classes[:count], of_small[:count], of_large[:count], strict=True)
            maps = [ClassMap(int(number), by_small, by_large) for number, by_small, by_large in of_classes]
        found.append(InspectedImage(outputs[:, index], (small[index], large[index]), attention, maps))
    return found
