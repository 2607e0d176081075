"""An instance's side of the control socket: it asks its parent what concerns all, and answers for itself."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Any

from app.api.dependencies import Service
from app.api.instance_group import InstanceGroup, MetricFamilies
from app.errors import NotReady
from app.instances.control_channel import ChannelClosed, ControlChannel
from app.instances.instance_report import SummedMetrics, read_totals, report_of
from app.instances.report_sums import Report
from app.server.listener import Server
from app.telemetry.metrics import Totals

log = logging.getLogger(__name__)

_PARENT_SECONDS = 5.0  # for an answer that needs no engine and no disk
_ENDING_SECONDS = 2.0  # for the parent to take the last report


class InstanceMember:
    """The group of instances, seen from one of them; runs beside its server.

    Args:
        connection: to the parent.
        service: of this process.
    """

    def __init__(self, connection: socket.socket, service: Service) -> None:
        self._connection = connection
        self._service = service
        self._local: InstanceGroup = service.group
        self._ended = False
        service.group = self

    async def start(self, server: Server) -> None:
        """Take part from now on. The server stops when the parent ends."""
        self._server = server
        self._channel = ControlChannel(
            {
                "ping": self._ping,
                "report": self._report,
                "wait_until_loaded": self._wait_until_loaded,
                "accept": self._accept,
                "stop": self._stop,
                "retire": self._retire,
                "check_ready": self._local.check_ready,
                "reload": self._local.reload,
                "load": self._local.load,
                "unload": self._local.unload,
            }
        )
        self._running = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Leave the last counts to the parent, and end."""
        self._ended = True
        try:
            await self._channel.ask("leave", self._counters(), seconds=_ENDING_SECONDS)
        except (ChannelClosed, TimeoutError):
            log.warning("the parent did not take the last counts")
        self._channel.close()
        await self._running

    async def check_ready(self, name: str | None = None, deep: bool = False) -> None:
        await self._ask("check_ready", name, deep, seconds=None if deep else _PARENT_SECONDS)

    async def instances(self) -> tuple[int, int]:
        total, ready = await self._ask("instances")
        return total, ready

    async def reload(self) -> list[str]:
        faults: list[str] = await self._ask("reload", seconds=None)
        return faults

    async def load(self, name: str) -> None:
        await self._ask("load", name, seconds=None)

    async def unload(self, name: str) -> None:
        await self._ask("unload", name, seconds=None)

    async def take(self, name: str, images: int, paid: int) -> None:
        await self._ask("take", name, images, paid)

    async def metrics(self) -> MetricFamilies:
        return SummedMetrics(await self._ask("report"))

    async def totals(self) -> Mapping[str, Totals]:
        return read_totals(await self._ask("report"))

    async def _ask(self, method: str, *values: Any, seconds: float | None = _PARENT_SECONDS) -> Any:
        try:
            return await self._channel.ask(method, *values, seconds=seconds)
        except ChannelClosed as err:
            raise NotReady("the service is stopping") from err
        except TimeoutError as err:
            raise NotReady("the parent of the instances does not answer", retry_after=1) from err

    async def _run(self) -> None:
        await self._channel.run(self._connection)
        if not self._ended:
            log.error("the parent of the instances has ended: this instance finishes what it accepted, and ends")
            self._server.stop(0)

    async def _ping(self) -> tuple[bool, Report]:
        """Whether the default model is ready, and the counts."""
        _, ready = await self._local.instances()
        return bool(ready), self._counters()

    async def _report(self) -> Report:
        return report_of(self._service.metrics, counters_only=False)

    async def _wait_until_loaded(self) -> None:
        await self._service.loaded.wait()

    async def _accept(self, accepting: bool) -> None:
        self._server.accept(accepting)

    async def _stop(self, grace_seconds: float) -> None:
        self._server.stop(grace_seconds)

    async def _retire(self) -> None:
        self._server.retire()

    def _counters(self) -> Report:
        return report_of(self._service.metrics, counters_only=True)
