"""An engine in its own process: self-tested before it serves, watched while it does, started again when it fails."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from app.decoding.decoder_memory import PixelLocation
from app.engines.engine_process.golden_check import golden_mismatch
from app.engines.engine_process.launch import EngineInput, EngineProcess, EngineResult
from app.engines.engine_process.measured_agreement import measured_agreement
from app.engines.engine_process.selection import Candidate, EngineRequest, EngineSearch
from app.errors import EngineFailed, EngineHung, NotReady, WrongAnswers
from app.processes.shared_memory import SharedMemory
from app.processes.worker import WorkerDied, WorkerFailed, WorkerHung
from bundle.calibration import ScoreCalibration
from bundle.reader import Bundle
from bundle.tensors import OUTPUTS, Images, Outputs

T = TypeVar("T")

log = logging.getLogger(__name__)

_SELF_TEST_SECONDS = 1.0  # for which a self-test's result counts
_OWN_BYTES = 1 << 30  # for images that no decoder made; what is not used takes no memory
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts to start a failed engine again


class EngineSupervisor:
    """Runs `bundle`'s graph at one resolution.

    It is ready once `start` has returned, until `close`, except for rebuilds: a process that fails a run, or ends while
    it has none, is replaced at once. A rebuild starts the same engine, and if that fails any that may be started.

    Attributes:
        name: of the engine that was started.
        precision: of that engine.
        batch: the most images that a call should hold.
        calls: how many calls may be on their way.
        refused: why other engines were not started, by their names.
        fault: why it is not ready, or None.
        calibrations: of scores, by precision and resolution; others may take their place at any time.

    Args:
        bundle: has the graphs, plans and golden images.
        resolution: that is run.
        memories: the files of the decoders' memories, by the numbers in PixelLocation.
        engine: may be started, or "auto".
        precision: that it must have, or "auto".
        prefer: name and precision that are taken without a comparison if they work.
        least_agreement: as EngineRequest has it.
        null_rate: as EngineFiles has it.
        background: as EngineProcess has it.
        run_seconds: that a run may take, or ten times what its images took at the start where that is longer.
        load_seconds: that each step of a start may take.
        on_restart: is called with a reason before each rebuild.
        sleep: pauses for so many seconds between the attempts to start a failed engine again.
    """

    def __init__(
        self,
        bundle: Bundle,
        resolution: int,
        *,
        memories: Sequence[int] = (),
        engine: str,
        precision: str,
        prefer: Candidate | None = None,
        least_agreement: float | None = None,
        null_rate: float = 0.0,
        background: bool = False,
        run_seconds: float,
        load_seconds: float,
        on_restart: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = engine
        self.precision = precision
        self.batch = self.calls = 1
        self.refused: dict[str, str] = {}
        self.fault: str | None = "it is loading"
        self.calibrations = bundle.calibration
        self._request = EngineRequest(
            engine,
            precision,
            prefer,
            least_agreement=least_agreement,
            null_rate=null_rate,
            background=background,
        )
        self._bundle = bundle
        self._resolution = resolution
        self._run_seconds = run_seconds
        self._load_seconds = load_seconds
        self._on_restart = on_restart
        self._sleep = sleep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{bundle.name}-{resolution}")
        self._search: EngineSearch | None = None  # the last one, which can end its processes
        self._process: EngineProcess | None = None
        self._memory = SharedMemory(_OWN_BYTES)
        self._memories = [*memories, self._memory.file]
        self._closed = False
        self._ready = asyncio.Event()
        self._rebuild: asyncio.Task[None] | None = None
        self._self_test: asyncio.Task[None] | None = None
        self._tested = -math.inf  # when the last self-test passed
        self._unused_ends = 0  # how often in succession it ended before it had run anything

    async def start(self) -> None:
        """Start the process; BadBundle, NoEngine or WrongAnswers if that cannot be, EngineFailed if it fails."""
        await self._begin(self._request)

    async def _begin(self, request: EngineRequest) -> None:
        try:
            await self._in_thread(lambda: self._start(request))
        except (WorkerDied, WorkerHung, WorkerFailed, OSError) as err:
            log.error("%s at %d: the engine cannot start: %s", self._bundle.name, self._resolution, err)
            raise EngineFailed("the engine cannot start; the log says why") from err
        assert self._process is not None
        self._process.attend(self._ended)
        self.fault = None
        self._ready.set()

    async def run(self, images: Images) -> Outputs:
        """The logits of `images`, of which one call at a time may be made; raises as `classify` does."""
        if not len(images):
            return np.empty((len(OUTPUTS), 0, self._bundle.manifest.classes), np.float32)
        self._memory.array(0, *images.shape)[...] = images
        own = len(self._memories) - 1
        offsets = range(0, images.nbytes, images[0].nbytes)
        results = await self.classify([EngineInput(PixelLocation(own, offset)) for offset in offsets])
        return np.stack([result.outputs for result in results], axis=1)

    async def classify(self, images: Sequence[EngineInput]) -> list[EngineResult]:
        """What is wanted of each of `images`; EngineFailed or EngineHung if the engine fails, which is then rebuilt."""
        await self.ready()
        process = self._process
        assert process is not None
        try:
            results = await process.run(images, self._run_seconds, self.calibration)
        except WorkerHung as err:
            self._rebuild_because("hung", err)
            raise EngineHung("the engine did not answer in time; it is being started again") from err
        except (WorkerDied, WorkerFailed) as err:
            self._rebuild_because("died" if isinstance(err, WorkerDied) else "failed", err)
            raise EngineFailed("the engine failed; it is being started again") from err
        self._unused_ends = 0
        return results

    @property
    def calibration(self) -> ScoreCalibration | None:
        """That of its scores, if there is one."""
        return self.calibrations.at(self.precision, self._resolution)

    async def ready(self) -> None:
        """Wait until the engine can run."""
        await self._ready.wait()

    async def self_test(self) -> None:
        """Send the golden images through the engine; WrongAnswers if it does not give their logits, NotReady if none.

        An engine that gives wrong ones is rebuilt. Callers meanwhile, or soon after, share the result.
        """
        if self.fault is not None:
            raise NotReady(f"{self._bundle.name} at {self._resolution}: {self.fault}", retry_after=1)
        if self._self_test is None or (
            self._self_test.done() and time.perf_counter() > self._tested + _SELF_TEST_SECONDS
        ):
            self._self_test = asyncio.create_task(self._run_golden())
        await asyncio.shield(self._self_test)

    async def close(self) -> None:
        """End the process; its memory is free then."""
        self._closed = True
        if self._process is not None:
            self._process.release()
        if self._rebuild is not None:
            self._rebuild.cancel()
        if self._search is not None:
            await asyncio.to_thread(self._search.stop)
        # Its thread has an end now, and must not start another process with a file that is closed by then.
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._memory.close()
        self._ready.set()  # those that wait find it dead

    async def _run_golden(self) -> None:
        golden = self._bundle.golden(self._resolution)
        wrong = golden_mismatch(golden, await self.run(golden.images), self.name, self.precision)
        if wrong:
            self._rebuild_because("wrong", WrongAnswers(wrong))
            raise WrongAnswers(f"{self._bundle.name} at {self._resolution}: {wrong}")
        self._tested = time.perf_counter()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _ended(self) -> None:
        """The process has ended while it had nothing to do, or sends what was not requested."""
        self._rebuild_because("ended", WorkerDied("while it had nothing to do"))
        self._unused_ends += 1

    def _start(self, request: EngineRequest) -> None:
        search = EngineSearch(self._bundle, self._resolution, request, self._memories, seconds=self._load_seconds)
        self._search = search
        if self._closed:
            raise WorkerDied("closed meanwhile")
        self._process = search.find()
        self.name, self.precision = self._process.name, self._process.precision
        self.batch, self.calls = self._process.batch, self._process.calls
        if measured := measured_agreement(self._bundle, self._resolution, self.name, self.precision):
            told = measured.describe(request.least_agreement)
            log.info("%s at %d, %s: %s", self._bundle.name, self._resolution, self.precision, told)
        refused = {engine: reason for engine, reason in search.refused.items() if engine != self.name}
        for engine, reason in refused.items():
            if self.refused.get(engine) != reason:
                log.warning("%s at %d is not run by %s: %s", self._bundle.name, self._resolution, engine, reason)
        # A restart says nothing of the engines that it had no need to try.
        before = {engine: reason for engine, reason in self.refused.items() if engine != self.name}
        self.refused = (before | refused) if request.restart else refused

    def _rebuild_because(self, reason: str, err: Exception) -> None:
        if self._closed or not self._ready.is_set():
            return
        log.error("%s at %d: the engine %s: %s", self._bundle.name, self._resolution, reason, err)
        self.fault = "its engine is being started again"
        self._ready.clear()
        self._on_restart(reason)
        self._rebuild = asyncio.create_task(self._start_again(reason))

    async def _start_again(self, why: str) -> None:
        if self._process is not None:
            self._process.release()
            if why == "ended":
                how = await self._in_thread(self._process.worker.describe_end)
                log.error("%s at %d: the engine's process: %s", self._bundle.name, self._resolution, how)
            await self._in_thread(self._process.kill)
        if self._unused_ends > 1:
            await self._sleep(min(_FIRST_PAUSE * 2 ** (self._unused_ends - 2), _LONGEST_PAUSE))
        failed = self.name
        request = replace(self._request, restart=(self.name, self.precision))
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._begin(request)
            except Exception as err:  # any: the next attempt may succeed
                self.fault = f"its engine cannot be started again: {err}"
                log.error("%s at %d: %s", self._bundle.name, self._resolution, self.fault)
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self.name != failed:
                    reason = self.refused.get(failed, "it is not here any more")
                    self.refused[failed] = f"it could not be started again: {reason}"
                log.warning("%s at %d: the engine runs again: %s", self._bundle.name, self._resolution, self.name)
                return
