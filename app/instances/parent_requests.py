"""What instances ask their parent: what concerns all of them."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from app.api.rate_limit import RateLimit
from app.errors import NotReady
from app.instances.control_channel import ChannelClosed, Method
from app.instances.instance_process import InstanceProcess
from app.instances.report_sums import EMPTY_REPORT, Report, enough, growing, metric_family, sum_reports
from bundle.bundle_errors import ExplainedError

_DEEP_SECONDS = 60.0  # for the golden images of all models


@dataclass
class Roster:
    """The instances; the supervisor changes it.

    Attributes:
        count: how many there should be.
        processes: those that have not ended.
        current: those that serve or start, by number; other processes retire, or will take the place of one of these.
        ended: what the instances counted that have ended.
        restarts: how many had to be started again, by reason.
        unloaded: models that were unloaded.
        changing: is held while models change, or while an instance is replaced.
        stopping: whether the service ends.
    """

    count: int
    processes: list[InstanceProcess] = field(default_factory=list)
    current: dict[int, InstanceProcess] = field(default_factory=dict)
    ended: Report = field(default_factory=lambda: EMPTY_REPORT)
    restarts: Counter[str] = field(default_factory=lambda: Counter(ended=0, hung=0))
    unloaded: set[str] = field(default_factory=set)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    stopping: bool = False


class ParentRequests:
    """Answers for all instances of `roster`; `limit` is the rate limit of keys, None for none."""

    def __init__(self, roster: Roster, limit: RateLimit | None) -> None:
        self._roster = roster
        self._limit = limit

    @property
    def methods(self) -> dict[str, Method]:
        """What instances may ask."""
        names = ("check_ready", "instances", "reload", "load", "unload", "take", "report")
        return {name: getattr(self, name) for name in names}

    async def check_ready(self, name: str | None, deep: bool) -> None:
        """Raise NotReady, UnknownModel or WrongAnswers unless enough instances have the model ready."""
        if self._roster.stopping:
            raise NotReady("the service is stopping")
        faults = await self._faults(name, deep)
        ready = faults.count(None)
        if not enough(ready, self._roster.count):
            missing = NotReady(f"{ready} of {self._roster.count} instances are ready", retry_after=1)
            raise next((fault for fault in faults if fault is not None), missing)

    async def instances(self) -> tuple[int, int]:
        """How many instances there are, and in how many of them the default model is ready."""
        return self._roster.count, (await self._faults()).count(None)

    async def reload(self) -> list[str]:
        """Let each instance in turn serve what is on disk; the errors."""
        faults: list[str] = []
        async with self._roster.changing:
            self._roster.unloaded.clear()
            for process in list(self._roster.current.values()):
                with suppress(ChannelClosed):  # the process that follows it reads the disk
                    faults += await process.ask("reload")
        return list(dict.fromkeys(faults))

    async def load(self, name: str) -> None:
        """Let each instance in turn serve the bundle as it is on disk, up to the first one that raises."""
        async with self._roster.changing:
            await self._in_turn("load", name)
            self._roster.unloaded.discard(name)

    async def unload(self, name: str) -> None:
        """Let each instance in turn serve the model no more, up to the first one that raises."""
        async with self._roster.changing:
            await self._in_turn("unload", name)
            self._roster.unloaded.add(name)

    async def take(self, name: str, images: int, paid: int) -> None:
        """Count images of a key as RateLimit.take does."""
        if self._limit is not None:
            self._limit.take(name, images, paid=paid)

    async def report(self) -> Report:
        """The sum of all instances, those that have ended included."""
        ended, running = self._roster.ended, list(self._roster.processes)  # together: no instance is in neither
        _, ready = await self.instances()
        reports = await asyncio.gather(*map(_report, running))
        return sum_reports([ended, *reports, self._own_report(ready)], self._roster.count)

    async def _in_turn(self, method: str, name: str) -> None:
        for process in list(self._roster.current.values()):
            with suppress(ChannelClosed):
                await process.ask(method, name)

    async def _faults(self, name: str | None = None, deep: bool = False) -> list[ExplainedError | None]:
        """Why the model is not ready in each instance; None where it is."""
        return await asyncio.gather(*(_fault(process, name, deep) for process in self._roster.current.values()))

    def _own_report(self, ready: int) -> Report:
        restarts = [({"reason": reason}, count) for reason, count in self._roster.restarts.items()]
        restarted = "Instances that had to be started again"
        metrics = (
            metric_family("crossvit_instances", "gauge", "Instances that there should be", [({}, self._roster.count)])
            | metric_family("crossvit_instances_ready", "gauge", "Instances that are ready", [({}, ready)])
            | metric_family("crossvit_instance_restarts", "counter", restarted, restarts)
        )
        return {"metrics": metrics, "totals": {}}


async def _fault(process: InstanceProcess, name: str | None, deep: bool) -> ExplainedError | None:
    try:
        if deep:
            await process.ask("check_ready", name, deep, seconds=_DEEP_SECONDS)
        else:
            await process.ask_soon("check_ready", name, deep)
    except (ChannelClosed, TimeoutError):
        return NotReady(f"instance {process.number} does not answer", retry_after=1)
    except ExplainedError as err:
        return err
    return None


async def _report(process: InstanceProcess) -> Report:
    """What the instance counts now; what it counted last if it does not answer."""
    try:
        report: Report = await process.ask_soon("report")
    except (ChannelClosed, TimeoutError):
        return growing(process.counters)
    process.counters = report
    return report
