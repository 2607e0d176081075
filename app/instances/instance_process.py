"""The parent's side of one instance: its process, the questions to it, and what it counted last."""

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from app.instances.assignment import Assignment
from app.instances.control_channel import ChannelClosed, ControlChannel, Method
from app.instances.report_sums import EMPTY_REPORT, Report

log = logging.getLogger(__name__)

_PING_SECONDS = 1.0  # between two pings
_LATE_SECONDS = 0.5  # after which an instance that does not answer a ping counts as not ready
_HUNG_SECONDS = 5.0  # after which it is killed
_START_SECONDS = 60.0  # until its event loop runs; models load later
_END_SECONDS = 2.0  # for the process to end after its control socket


class InstanceProcess:
    """An instance, from its start to its end.

    Attributes:
        number: of the instance.
        counters: what it has counted, as its parent knows it.
        killed: why its parent killed it, or empty.

    Args:
        assignment: makes what it is told, with the number of its control socket.
        arguments: of `crossvit serve`.
        environment: of the process.
        methods: what it may ask its parent.
        on_ping: is called after each answer to a ping.
    """

    def __init__(
        self,
        assignment: Callable[[int], Assignment],
        arguments: Sequence[str],
        environment: dict[str, str],
        methods: dict[str, Method],
        on_ping: Callable[[], None],
    ) -> None:
        self.counters: Report = EMPTY_REPORT
        self.killed = ""
        self._on_ping = on_ping
        self._ready = False
        self._ping_sent: float | None = None
        self._answered = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._channel = ControlChannel(methods | {"leave": self._leave})
        ours, theirs = socket.socketpair()
        with theirs:
            told = assignment(theirs.fileno())
            self.number = told.number
            self._accepting = told.accepts
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app.instances.instance_main", told.to_json(), *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=told.files,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal is for the parent
            )
        self._running = asyncio.create_task(self._run(ours))
        self._watching = asyncio.create_task(self._watch())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether the default model was ready at the last ping."""
        return self._ready and not self.late and not self._running.done()

    @property
    def late(self) -> bool:
        """Whether it has not answered the last ping in time, or no ping yet."""
        waits = self._ping_sent is not None and time.monotonic() - self._ping_sent > _LATE_SECONDS
        return waits or not self._answered.is_set()

    async def ask(self, method: str, *values: Any, seconds: float | None = None) -> Any:
        """As ControlChannel.ask, once its event loop runs; ChannelClosed when it ends."""
        await self._unless_ended(self._answered.wait())
        return await self._channel.ask(method, *values, seconds=seconds)

    async def ask_soon(self, method: str, *values: Any) -> Any:
        """The same, TimeoutError if it is late."""
        if self.late:
            raise TimeoutError
        return await self._channel.ask(method, *values, seconds=_LATE_SECONDS)

    async def wait_until_loaded(self) -> None:
        """Return when its models are loaded; ChannelClosed when it ends."""
        await self.ask("wait_until_loaded")
        self._ready = True

    async def wait_until_ended(self) -> int:
        """The exit status, negative for a signal."""
        await asyncio.wait([self._running])
        deadline = time.monotonic() + _END_SECONDS
        while (status := self._process.poll()) is None:
            if time.monotonic() > deadline:
                self.kill("it closed its control socket and did not end")
            await asyncio.sleep(0.01)
        return status

    def accept(self, accepting: bool) -> None:
        """Let it accept connections, or leave them to others."""
        if accepting != self._accepting:
            self._accepting = accepting
            self._tell("accept", accepting)

    def stop(self, grace_seconds: float) -> None:
        """Let it end readiness, and close the port after `grace_seconds`."""
        if self._answered.is_set():
            self._tell("stop", grace_seconds)
        else:
            self._process.terminate()  # it accepts nothing yet

    def retire(self) -> None:
        """Let it accept no more, finish what it accepted, and end."""
        self._tell("retire")

    def kill(self, reason: str) -> None:
        """End the process, whatever it does; its workers notice and end too."""
        self.killed = self.killed or reason
        self._process.kill()

    def _tell(self, method: str, *values: Any) -> None:
        task = asyncio.create_task(self._told(method, *values))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _told(self, method: str, *values: Any) -> None:
        try:
            await self._channel.ask(method, *values)
        except ChannelClosed:
            log.debug("instance %d ended before it was told to %s", self.number, method)

    async def _run(self, connection: socket.socket) -> None:
        try:
            await self._channel.run(connection)
        finally:
            self._watching.cancel()

    async def _watch(self) -> None:
        """Ping it for as long as it runs; kill it when it hangs."""
        limit = _START_SECONDS
        while True:
            self._ping_sent = time.monotonic()
            try:
                self._ready, self.counters = await self._ping(limit)
            except TimeoutError:
                self.kill(f"its event loop did not answer for {limit:g} s")
                return
            except ChannelClosed:
                return
            self._ping_sent = None
            self._answered.set()
            self._on_ping()
            limit = _HUNG_SECONDS
            await asyncio.sleep(_PING_SECONDS)

    async def _ping(self, limit: float) -> tuple[bool, Report]:
        """Its answer. TimeoutError after `limit`, without the time in which this process was stopped itself."""
        asking = asyncio.ensure_future(self._channel.ask("ping"))
        try:
            for _ in range(round(limit / _LATE_SECONDS)):
                done, _ = await asyncio.wait([asking], timeout=_LATE_SECONDS)
                if done:
                    ready, counters = asking.result()
                    return ready, counters
            raise TimeoutError
        finally:
            asking.cancel()

    async def _leave(self, counters: Report) -> None:
        self.counters = counters

    async def _unless_ended(self, waiting: Any) -> None:
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait([task, self._running], return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
        if self._running.done():
            raise ChannelClosed
