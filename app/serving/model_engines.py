"""The engines of one bundle, one for each resolution that is loaded."""

import asyncio
from collections.abc import Callable, Sequence

from app.engines.engine_process.launch import EngineInput, EngineResult
from app.engines.engine_process.measured_agreement import measured_agreement
from app.engines.engine_process.supervisor import EngineSupervisor
from app.errors import BadParameter, NotReady
from bundle.agreement import Agreement
from bundle.calibration import Calibration
from bundle.reader import Bundle

MakeEngine = Callable[[int, tuple[str, str] | None], EngineSupervisor]


def served_resolution(bundle: Bundle, requested: int | None) -> int:
    """`requested`, or the bundle's default; BadParameter if the bundle lacks it."""
    if requested is None:
        return bundle.manifest.default_resolution
    if requested not in bundle.resolutions:
        offered = ", ".join(map(str, bundle.resolutions))
        raise BadParameter(f"resolution {requested} is not served; one of {offered}")
    return requested


class ModelEngines:
    """Each in a process of its own: the default resolution's from the start, others from their first request.

    The others have the default one's engine and precision if that works for them too.

    Args:
        bundle: whose graphs they run.
        make: the engine for a resolution, and a name and precision that it should have if it can.
    """

    def __init__(self, bundle: Bundle, make: MakeEngine) -> None:
        self._bundle = bundle
        self._make = make
        self._default_resolution = bundle.manifest.default_resolution
        self._default = make(self._default_resolution, None)
        self._calibrations = bundle.calibration
        self._loaded: dict[int, EngineSupervisor] = {}
        self._loads: dict[int, asyncio.Task[None]] = {}

    @property
    def calls(self) -> int:
        """How many calls may be on their way."""
        return self._default.calls

    @property
    def fault(self) -> str | None:
        """Why the default resolution cannot be served now, if so."""
        return self._default.fault

    @property
    def loaded(self) -> list[int]:
        """The resolutions that are ready."""
        return sorted(resolution for resolution, engine in self._loaded.items() if engine.fault is None)

    @property
    def started(self) -> list[int]:
        """The resolutions that have an engine, ready or not."""
        return [resolution for resolution, _ in self._all()]

    @property
    def agreement(self) -> dict[int, Agreement]:
        """How the engines agreed with float32 at the export, by resolution; without those in float32."""
        measured = {
            resolution: measured_agreement(self._bundle, resolution, engine.name, engine.precision)
            for resolution, engine in self._all()
        }
        return {resolution: found for resolution, found in measured.items() if found}

    @property
    def refused(self) -> list[tuple[str, int, str]]:
        """Engines that could be expected to serve and do not, at which resolution, and why."""
        return [(name, at, why) for at, engine in self._all() for name, why in engine.refused.items()]

    def at(self, resolution: int) -> EngineSupervisor:
        """What runs `resolution`; the default one's while it is not loaded."""
        return self._loaded.get(resolution, self._default)

    def resolution(self, requested: int | None) -> int:
        """The resolution to serve; BadParameter if the bundle lacks the one that was requested."""
        return served_resolution(self._bundle, requested)

    def calibrate(self, calibrations: Calibration) -> None:
        """Make the scores of the answers from now on with `calibrations`."""
        self._calibrations = calibrations
        for _, engine in self._all():
            engine.calibrations = calibrations

    async def ready(self) -> None:
        """Wait until the default resolution can be served."""
        await self._default.ready()

    async def load(self, resolution: int) -> None:
        """Make `resolution` ready and self-test it; raises as EngineSupervisor.start does."""
        if resolution in self._loaded:
            return
        if resolution not in self._loads:
            self._loads[resolution] = asyncio.create_task(self._load(resolution))
        try:
            # If the first client goes away, others may be waiting for the same.
            await asyncio.shield(self._loads[resolution])
        except Exception:
            self._loads.pop(resolution, None)  # the next request tries again
            raise

    async def run(self, resolution: int, images: list[EngineInput]) -> Sequence[EngineResult]:
        """The results of `images` at a loaded resolution. Raises NotReady while its engine is being replaced."""
        engine = self._loaded[resolution]
        if engine is not self._default and engine.fault is not None:  # those at other resolutions do not wait for it
            raise NotReady(f"{self._bundle.name} at {resolution}: {engine.fault}", retry_after=1)
        return await engine.classify(images)

    async def self_test(self) -> None:
        """Send the golden images through every engine that is loaded; WrongAnswers or NotReady if one fails."""
        for engine in list(self._loaded.values()):
            await engine.self_test()

    async def close(self) -> None:
        """End all of them, and what is being loaded."""
        for load in self._loads.values():
            load.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)
        await asyncio.gather(*(engine.close() for engine in (self._default, *self._loaded.values())))

    def _all(self) -> list[tuple[int, EngineSupervisor]]:
        return sorted(({self._default_resolution: self._default} | self._loaded).items())

    async def _load(self, resolution: int) -> None:
        engine = self._default
        if resolution != self._default_resolution:
            engine = self._make(resolution, (self._default.name, self._default.precision))
        try:
            await engine.start()
        except BaseException:
            await engine.close()
            raise
        engine.calibrations = self._calibrations  # they may have changed meanwhile
        self._loaded[resolution] = engine
