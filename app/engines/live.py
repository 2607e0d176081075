"""An engine in a process of its own: proven before it serves, watched while it does, started again when it fails."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.bundle import Bundle
from app.engines.engine import Images, Outputs
from app.errors import EngineFailed, EngineHung, NotReady, WrongAnswers
from app.golden import fault
from app.worker import Worker, WorkerDied, WorkerFailed, WorkerHung

T = TypeVar("T")

log = logging.getLogger(__name__)

_PROOF_SECONDS = 1.0  # for which a proof counts
_LONGEST_PAUSE = 30.0  # seconds between attempts to start a failed engine again


class LiveEngine:
    """Runs `bundle`'s graph at one resolution. It is ready once `start` has returned, until `close`, but for rebuilds.

    `load_seconds` bounds a start. A run may take `run_seconds`, or ten times what its images took at the start where
    that is longer. `on_restart` is called with a reason before each rebuild.
    """

    def __init__(
        self,
        bundle: Bundle,
        resolution: int,
        *,
        engine: str,
        precision: str,
        run_seconds: float,
        load_seconds: float,
        on_restart: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = engine
        self.precision = precision
        self.fault: str | None = "it is loading"
        self._bundle = bundle
        self._resolution = resolution
        self._run_seconds = run_seconds
        self._load_seconds = load_seconds
        self._image_seconds = 0.0
        self._on_restart = on_restart
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{bundle.name}-{resolution}")
        self._worker: Worker | None = None
        self._closed = False
        self._ready = asyncio.Event()
        self._rebuild: asyncio.Task[None] | None = None
        self._proof: asyncio.Task[None] | None = None
        self._proven = -math.inf  # when the last proof succeeded

    async def start(self) -> None:
        """Start the process; BadBundle, NoEngine or WrongAnswers if that cannot be, EngineFailed if it fails."""
        try:
            await self._in_thread(self._start)
        except (WorkerDied, WorkerHung, WorkerFailed, OSError) as err:
            log.error("%s at %d: the engine cannot start: %s", self._bundle.name, self._resolution, err)
            raise EngineFailed("the engine cannot start; the log says why") from err
        self.fault = None
        self._ready.set()

    async def run(self, images: Images) -> Outputs:
        """The logits of `images`; EngineFailed or EngineHung if the engine fails, which is then rebuilt."""
        await self.ready()
        try:
            return await self._in_thread(lambda: self._run(images))
        except WorkerHung as err:
            self._rebuild_because("hung", err)
            raise EngineHung("the engine did not answer in time; it is being started again") from err
        except (WorkerDied, WorkerFailed) as err:
            self._rebuild_because("died" if isinstance(err, WorkerDied) else "failed", err)
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
        if self._rebuild is not None:
            self._rebuild.cancel()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.kill)
        # Its thread has an end now, and must not start another one with a file that is closed by then.
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._ready.set()  # whoever waits finds it dead

    async def _prove(self) -> None:
        golden = self._bundle.golden(self._resolution)
        wrong = fault(golden, await self.run(golden.images), self.precision)
        if wrong:
            self._rebuild_because("wrong", WrongAnswers(wrong))
            raise WrongAnswers(f"{self._bundle.name} at {self._resolution}: {wrong}")
        self._proven = time.perf_counter()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _start(self) -> None:
        golden = self._bundle.golden(self._resolution)
        worker = Worker(
            f"engine {self._bundle.name} {self._resolution}",
            "app.engines.host:Host",
            [self._bundle.graph_file, self._bundle.graph_sha256],
            seconds=self._load_seconds,
            pass_fds=[self._bundle.graph_file],
            keep_environment=True,
            on_spawn=self._spawned,
        )
        try:
            (self.name, self.precision), _ = worker.call(
                "start", [self.name, self.precision], [golden.images, golden.logits], seconds=self._load_seconds
            )
            started = time.perf_counter()
            worker.call("run", [], [golden.images], seconds=self._load_seconds)
            self._image_seconds = (time.perf_counter() - started) / len(golden.images)
        except BaseException:
            worker.kill()
            raise

    def _spawned(self, worker: Worker) -> None:
        self._worker = worker
        if self._closed:
            raise WorkerDied("closed meanwhile")

    def _run(self, images: Images) -> Outputs:
        assert self._worker is not None
        seconds = max(self._run_seconds, 10 * self._image_seconds * len(images))
        _, (outputs,) = self._worker.call("run", [], [images], seconds=seconds)
        return outputs

    def _rebuild_because(self, reason: str, err: Exception) -> None:
        if self._closed or not self._ready.is_set():
            return
        log.error("%s at %d: the engine %s: %s", self._bundle.name, self._resolution, reason, err)
        self.fault = "its engine is being started again"
        self._ready.clear()
        self._on_restart(reason)
        self._rebuild = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        if self._worker is not None:
            await asyncio.to_thread(self._worker.kill)
        pause = 0.5
        while True:
            try:
                await self.start()
            except Exception as err:  # whatever it is, the next attempt may do
                self.fault = f"its engine cannot be started again: {err}"
                log.error("%s at %d: %s", self._bundle.name, self._resolution, self.fault)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                log.warning("%s at %d: the engine runs again", self._bundle.name, self._resolution)
                return
