"""An engine in a process of its own: proven before it serves, watched while it does, started again when it fails."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from app.engines.process.launch import EngineRequest, start_engine
from app.engines.selection import AUTO
from app.errors import EngineFailed, EngineHung, NotReady, WrongAnswers
from app.processes.shared_buffer import SharedBuffer
from app.processes.worker import Arrays, Reply, Values, Worker, WorkerDied, WorkerFailed, WorkerHung
from bundle.golden import mismatch
from bundle.reader import Bundle
from bundle.tensors import OUTPUTS, Images, Outputs
from model.preprocess import Pixels

T = TypeVar("T")

log = logging.getLogger(__name__)

_PROOF_SECONDS = 1.0  # for which a proof counts
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts to start a failed engine again
_HEAD_BYTES = 1 << 20  # of what a run answers, apart from the outputs


class EngineSupervisor:
    """Runs `bundle`'s graph at one resolution. It is ready once `start` has returned, until `close`, but for rebuilds:
    a process that fails a run, or ends while it has none, is replaced at once.

    `engine` and `precision` are what may be started, `prefer` the name and precision to take if they work; what was
    started is in `name`, `precision` and `batch`, and `refused` says of others why they were not. A rebuild starts the
    same one, and if that cannot be whatever may be started. With `jpegs` it decodes JPEGs of up to so many pixels, or
    `no_jpegs` says why not; after a failure at that, never again. `load_seconds` bounds an attempt. A run may take
    `run_seconds`, or ten times what its images took at the start where that is longer. `on_restart` is called with a
    reason before each rebuild.
    """

    def __init__(
        self,
        bundle: Bundle,
        resolution: int,
        *,
        engine: str,
        precision: str,
        prefer: tuple[str, str] | None = None,
        jpegs: int | None = None,
        run_seconds: float,
        load_seconds: float,
        on_restart: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = engine
        self.precision = precision
        self.batch = 1
        self.refused: dict[str, str] = {}
        self.fault: str | None = "it is loading"
        self.no_jpegs: str | None = None
        self._decodes_jpegs = False
        self._wish = EngineRequest(engine, precision, prefer, jpegs=jpegs)
        self._bundle = bundle
        self._resolution = resolution
        self._run_seconds = run_seconds
        self._load_seconds = load_seconds
        self._image_seconds = 0.0
        self._on_restart = on_restart
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{bundle.name}-{resolution}")
        self._worker: Worker | None = None
        self._tray = SharedBuffer()
        self._closed = False
        self._ready = asyncio.Event()
        self._rebuild: asyncio.Task[None] | None = None
        self._proof: asyncio.Task[None] | None = None
        self._proven = -math.inf  # when the last proof succeeded
        self._runs = 0  # under way
        self._watched: int | None = None  # the worker's connection, while it has nothing to do
        self._unused_ends = 0  # how often in succession it ended before it had run anything

    async def start(self) -> None:
        """Start the process; BadBundle, NoEngine or WrongAnswers if that cannot be, EngineFailed if it fails."""
        await self._begin(self._wish)

    async def _begin(self, wish: EngineRequest) -> None:
        try:
            await self._in_thread(lambda: self._start(wish))
        except (WorkerDied, WorkerHung, WorkerFailed, OSError) as err:
            log.error("%s at %d: the engine cannot start: %s", self._bundle.name, self._resolution, err)
            raise EngineFailed("the engine cannot start; the log says why") from err
        self.fault = None
        self._ready.set()
        self._watch()

    @property
    def decodes_jpegs(self) -> bool:
        """Whether it decodes JPEGs now."""
        return self._decodes_jpegs and self.fault is None

    async def run(self, images: Images) -> Outputs:
        """The logits of `images`; EngineFailed or EngineHung if the engine fails, which is then rebuilt."""
        outputs, _ = await self.run_with_jpegs(images, [])
        return outputs

    async def run_with_jpegs(
        self, images: Images | Sequence[Pixels], bodies: Sequence[bytes]
    ) -> tuple[Outputs, list[int]]:
        """The logits of `images`, then those of the JPEGs in `bodies` that it can decode; the indices of these.

        There are none of them while it decodes no JPEGs. Raises as `run` does.
        """
        await self.ready()
        bodies = bodies if self.decodes_jpegs else []
        if not len(images) and not bodies:
            return np.empty((len(OUTPUTS), 0, 0), np.float32), []
        try:
            return await self._watched_run(images, bodies)
        except WorkerHung as err:
            self._rebuild_because("hung", err, with_jpegs=bool(bodies))
            raise EngineHung("the engine did not answer in time; it is being started again") from err
        except (WorkerDied, WorkerFailed) as err:
            reason = "died" if isinstance(err, WorkerDied) else "failed"
            self._rebuild_because(reason, err, with_jpegs=bool(bodies))
            raise EngineFailed("the engine failed; it is being started again") from err

    async def ready(self) -> None:
        """Wait until the engine can run."""
        await self._ready.wait()

    async def prove(self) -> None:
        """Send the golden images through the engine; WrongAnswers if it does not give their logits, NotReady if none.

        An engine that gives wrong ones is rebuilt. Whoever asks meanwhile, or soon after, shares the result.
        """
        if self.fault is not None:
            raise NotReady(f"{self._bundle.name} at {self._resolution}: {self.fault}", retry_after=1)
        if self._proof is None or (self._proof.done() and time.perf_counter() > self._proven + _PROOF_SECONDS):
            self._proof = asyncio.create_task(self._prove())
        await asyncio.shield(self._proof)

    async def close(self) -> None:
        """End the process; its memory is free then."""
        self._closed = True
        self._unwatch()
        if self._rebuild is not None:
            self._rebuild.cancel()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.kill)
        # Its thread has an end now, and must not start another one with a file that is closed by then.
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._tray.close()
        self._ready.set()  # whoever waits finds it dead

    async def _prove(self) -> None:
        golden = self._bundle.golden(self._resolution)
        wrong = mismatch(golden, await self.run(golden.images), self.precision)
        if wrong:
            self._rebuild_because("wrong", WrongAnswers(wrong))
            raise WrongAnswers(f"{self._bundle.name} at {self._resolution}: {wrong}")
        self._proven = time.perf_counter()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _watched_run(
        self, images: Images | Sequence[Pixels], bodies: Sequence[bytes]
    ) -> tuple[Outputs, list[int]]:
        """What `_run` gives. A process that ends meanwhile fails it; one that has nothing to do is watched."""
        self._runs += 1
        self._unwatch()
        try:
            result = await self._in_thread(lambda: self._run(images, bodies))
        finally:
            self._runs -= 1
        self._unused_ends = 0
        self._watch()
        return result

    def _watch(self) -> None:
        if self._worker is None or self._closed or self._runs or not self._ready.is_set():
            return
        file = self._worker.fileno()
        if file >= 0:
            self._unwatch()
            self._watched = file
            asyncio.get_running_loop().add_reader(file, self._ended)

    def _unwatch(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None

    def _ended(self) -> None:
        """The process has ended while it had nothing to do, or says what nobody asked for."""
        self._unwatch()
        self._rebuild_because("ended", WorkerDied("while it had nothing to do"))
        self._unused_ends += 1

    def _start(self, wish: EngineRequest) -> None:
        started = start_engine(
            self._bundle, self._resolution, wish, self._tray, seconds=self._load_seconds, on_spawn=self._spawned
        )
        self.name, self.precision, self.batch = started.name, started.precision, started.batch
        self._image_seconds = started.image_seconds
        for engine, reason in started.refused.items():
            if self.refused.get(engine) != reason:
                log.warning("%s at %d is not run by %s: %s", self._bundle.name, self._resolution, engine, reason)
        self.refused = started.refused
        self._decodes_jpegs = wish.jpegs is not None and started.no_jpegs is None
        if wish.jpegs is not None:
            self._jpegs_refused(started.no_jpegs)

    def _spawned(self, worker: Worker) -> None:
        self._worker = worker
        if self._closed:
            raise WorkerDied("closed meanwhile")

    def _run(self, images: Images | Sequence[Pixels], bodies: Sequence[bytes]) -> tuple[Outputs, list[int]]:
        assert self._worker is not None
        side = images[0].shape[0] if len(images) else self._bundle.manifest.preprocessing[self._resolution].crop
        shape = (len(images), side, side, 3)
        for place, image in zip(self._tray.array(*shape), images, strict=True):
            place[...] = image
        seconds = max(self._run_seconds, 10 * self._image_seconds * (len(images) + len(bodies)))
        arrays = [np.frombuffer(body, np.uint8) for body in bodies]
        classes = self._bundle.manifest.classes
        array_bytes = 4 * len(OUTPUTS) * (len(images) + len(bodies)) * classes
        check = partial(_check_outputs, len(images), len(bodies), classes)
        reply = Reply(_HEAD_BYTES, array_bytes, raises=(), check=check)
        decoded, (outputs,) = self._worker.call("run", [shape], [*arrays], seconds=seconds, reply=reply)
        return outputs, decoded

    def _jpegs_refused(self, reason: str | None) -> None:
        if reason and reason != self.no_jpegs:
            log.warning("%s at %d: JPEGs are decoded on the CPU: %s", self._bundle.name, self._resolution, reason)
        self.no_jpegs = reason

    def _rebuild_because(self, reason: str, err: Exception, *, with_jpegs: bool = False) -> None:
        if self._closed or not self._ready.is_set():
            return
        if with_jpegs:  # bytes from outside do not get to end it twice
            self._wish = replace(self._wish, jpegs=None)
            self._jpegs_refused(f"the engine {reason} while it decoded some; the log says how")
        log.error("%s at %d: the engine %s: %s", self._bundle.name, self._resolution, reason, err)
        self.fault = "its engine is being started again"
        self._ready.clear()
        self._unwatch()
        self._on_restart(reason)
        self._rebuild = asyncio.create_task(self._start_again(reason))

    async def _start_again(self, why: str) -> None:
        if self._worker is not None:
            if why == "ended":
                how = await self._in_thread(self._worker.how_it_ended)
                log.error("%s at %d: the engine's process: %s", self._bundle.name, self._resolution, how)
            await self._in_thread(self._worker.kill)
        if self._unused_ends > 1:
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (self._unused_ends - 2), _LONGEST_PAUSE))
        failed, reason = self.name, ""
        wish = EngineRequest(self.name, self.precision, skip=self.refused, jpegs=self._wish.jpegs)
        anything = replace(self._wish, prefer=(self.name, self.precision))
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._begin(wish)
            except Exception as err:  # whatever it is, the next attempt may do
                # A device that hangs takes its time at each attempt: the second is without it, later ones are with it.
                first, reason = not reason, f"it could not be started again: {err}"
                wish = replace(anything, skip={failed: reason}) if first and anything.engine == AUTO else anything
                self.fault = f"its engine cannot be started again: {err}"
                log.error("%s at %d: %s", self._bundle.name, self._resolution, self.fault)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self.name != failed:
                    self.refused.setdefault(failed, reason)
                log.warning("%s at %d: the engine runs again: %s", self._bundle.name, self._resolution, self.name)
                return


def _check_outputs(images: int, bodies: int, classes: int, values: Values, arrays: Arrays) -> None:
    """ValueError unless `values` are indices of JPEGs, and the array has the logits of the images and of these."""
    if any(type(index) is not int for index in values) or values != sorted({*values} & {*range(bodies)}):
        raise ValueError("not the indices of what was decoded")
    (outputs,) = arrays
    count = images + len(values)
    if outputs.dtype != np.float32 or (count and outputs.shape != (len(OUTPUTS), count, classes)):
        raise ValueError(f"outputs of the shape {outputs.shape}")
