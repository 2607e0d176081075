"""The parent of the instances: starts them, replaces those that fail, stops, reloads and replaces all in turn."""

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from app.api.rate_limit import RateLimit
from app.configuration.settings import Settings
from app.instances.assignment import Assignment
from app.instances.control_channel import ChannelClosed
from app.instances.instance_process import InstanceProcess
from app.instances.parent_requests import ParentRequests, Roster
from app.instances.report_sums import growing, sum_reports
from app.machine.core_shares import core_shares, equal_share
from app.machine.signals import handled_by_loop, outside
from app.server.listening_sockets import ListeningSockets

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before an instance that failed is started again
_STABLE_SECONDS = 60.0  # an instance that ran so long begins with the first pause again
_OVERTIME_SECONDS = 15.0  # that an instance may need to end beyond its grace and drain seconds


class InstanceSupervisor:
    """Runs `count` instances of the service until SIGTERM or Ctrl-C.

    An instance that ends is started again; so is one whose event loop does not answer, which is killed first. SIGHUP
    reloads the models, one instance after the other. SIGUSR2 replaces the instances, each by one that is ready before
    the old one accepts no more.

    Args:
        settings: of the service as a whole.
        arguments: from which instances read the same settings.
        count: how many instances there are.
        listeners: that they inherit; an instance that fails loses none of the connections that wait there.
    """

    def __init__(self, settings: Settings, arguments: Sequence[str], count: int, listeners: ListeningSockets) -> None:
        self._settings = settings
        self._arguments = arguments
        self._listeners = listeners
        self._roster = Roster(count)
        limit = RateLimit(settings.rate_limit) if settings.rate_limit else None
        self._methods = ParentRequests(self._roster, limit).methods
        self._cpus = core_shares(count)
        self._environment = os.environ | equal_share(count).environment()
        self._failures = Counter[int]()  # in succession, by number
        self._first_loaded = asyncio.Event()
        self._finished = asyncio.Event()
        self._status = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """The exit status: 0 after a stop, that of an instance if the service could not start."""
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: partial(self._stop, self._settings.grace_seconds),
            signal.SIGINT: partial(self._stop, 0),
            signal.SIGHUP: lambda: self._spawn(self._reload_when_started()),
            signal.SIGUSR2: lambda: self._spawn(self._replace_when_started()),
        }
        with handled_by_loop(handlers):
            self._starting = asyncio.create_task(self._start())
            if outside.reload:
                self._spawn(self._reload_when_started())
            await self._finished.wait()
        for task in (self._starting, *self._tasks):
            task.cancel()
        return self._status

    # Starting and replacing

    async def _start(self) -> None:
        """Start the first instance, which chooses and compiles the engine for all, and the others when it is ready."""
        self._roster.current[0] = self._launch(0)
        await self._first_loaded.wait()
        for number in range(1, self._roster.count):
            if not self._roster.stopping:
                self._roster.current[number] = self._launch(number)

    def _launch(self, number: int) -> InstanceProcess:
        assignment = partial(self._assignment, number)
        process = InstanceProcess(
            assignment, self._arguments, self._environment, self._methods, on_ping=self._share_connections
        )
        self._roster.processes.append(process)
        self._spawn(self._note_loaded(process))
        self._spawn(self._follow(process))
        log.info("instance %d starts: process %d", number, process.pid)
        return process

    def _assignment(self, number: int, control: int) -> Assignment:
        return Assignment(
            number=number,
            instances=self._roster.count,
            cpus=sorted(self._cpus[number]) if self._cpus else [],
            accepts=not self._first_loaded.is_set(),
            unloaded=sorted(self._roster.unloaded),
            control=control,
            public=[listener.fileno() for listener in self._listeners.public],
            admin=[listener.fileno() for listener in self._listeners.admin],
            grpc=[reserved.fileno() for reserved in self._listeners.grpc],
        )

    async def _note_loaded(self, process: InstanceProcess) -> None:
        with suppress(ChannelClosed):
            await process.wait_until_loaded()
            self._first_loaded.set()
            self._share_connections()
            log.info("instance %d is ready", process.number)

    def _share_connections(self) -> None:
        """Let those instances accept connections that are ready; if none is, all of them."""
        if not self._roster.stopping:
            current = self._roster.current.values()
            some_ready = any(process.ready for process in current)
            for process in current:
                process.accept(process.ready or not some_ready)

    async def _follow(self, process: InstanceProcess) -> None:
        """Wait for the end of an instance, and start it again if it should run."""
        started = time.monotonic()
        status = await process.wait_until_ended()
        self._roster.processes.remove(process)
        self._roster.ended = sum_reports([self._roster.ended, growing(process.counters)], self._roster.count)
        if self._roster.stopping:
            self._finish()
            return
        if self._roster.current.get(process.number) is not process:
            log.info("instance %d, process %d, has ended: %s", process.number, process.pid, _end(process, status))
            return
        if status > 0 and not self._first_loaded.is_set():
            self._status = status
            self._stop(0)
            return
        self._roster.restarts["hung" if process.killed else "ended"] += 1
        await self._start_again(process, status, stable=time.monotonic() - started > _STABLE_SECONDS)

    async def _start_again(self, process: InstanceProcess, status: int, *, stable: bool) -> None:
        number = process.number
        self._failures[number] = 0 if stable else self._failures[number] + 1
        pause = min(_FIRST_PAUSE * 2 ** max(0, self._failures[number] - 1), _LONGEST_PAUSE)
        log.error("instance %d has ended: %s; it is started again in %g s", number, _end(process, status), pause)
        await asyncio.sleep(pause)
        if not self._roster.stopping and self._roster.current[number] is process:  # it was not replaced meanwhile
            self._roster.current[number] = self._launch(number)

    async def _reload_when_started(self) -> None:
        await asyncio.shield(self._starting)
        log.info("reading the models on disk again, one instance after the other")
        await self._methods["reload"]()

    async def _replace_when_started(self) -> None:
        await asyncio.shield(self._starting)
        log.info("replacing the instances, one after the other")
        for number in range(self._roster.count):
            async with self._roster.changing:
                old = await self._replace(number)
            if old is None:
                return
            await self._until_ended(old)  # not with the lock: it may have a request that needs it
        log.info("all instances are replaced")

    async def _replace(self, number: int) -> InstanceProcess | None:
        """Start a process for instance `number`, and let it take the place of the old one; None if it fails."""
        new = self._launch(number)
        try:
            await new.wait_until_loaded()
        except ChannelClosed:
            if not self._roster.stopping:
                log.error("a new process for instance %d did not start: the instances stay as they are", number)
            return None
        old, self._roster.current[number] = self._roster.current[number], new
        self._share_connections()
        old.retire()
        return old

    async def _until_ended(self, process: InstanceProcess) -> None:
        limit = self._settings.grace_seconds + self._settings.drain_seconds + _OVERTIME_SECONDS
        try:
            async with asyncio.timeout(limit):
                await process.wait_until_ended()
        except TimeoutError:
            process.kill(f"it did not end within {limit:g} s")

    # Stopping

    def _stop(self, grace_seconds: float) -> None:
        """Stop all instances together: the end of the service as a whole takes no longer than that of one."""
        again, self._roster.stopping = self._roster.stopping, True
        log.info("stopping %d instances", len(self._roster.processes))
        self._listeners.close()  # the instances have them until the grace period ends
        for process in self._roster.processes:
            process.stop(0 if again else grace_seconds)
            if not again:
                self._spawn(self._until_ended(process))
        self._finish()

    def _finish(self) -> None:
        if self._roster.stopping and not self._roster.processes:
            self._finished.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end(process: InstanceProcess, status: int) -> str:
    if process.killed:
        return f"it was killed, since {process.killed}"
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
