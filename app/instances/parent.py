"""`crossvit serve` with several instances."""

import asyncio
import logging
from collections.abc import Sequence

from app.configuration.settings import Settings
from app.instances.instance_count import chosen_count
from app.instances.instance_supervisor import InstanceSupervisor
from app.server.listening_sockets import ListeningSockets, open_listeners
from app.server.service_run import run_service
from app.telemetry import logs

log = logging.getLogger(__name__)


def run_instances(settings: Settings, arguments: Sequence[str]) -> int:
    """Serve with the instances of `settings`, until SIGTERM or Ctrl-C; the exit status.

    Raises BadParameter if a port cannot be bound. If one instance is the best, it is this process.
    """
    logs.configure(settings.log_level, settings.log_format, waits=False)
    count = settings.instances or chosen_count(arguments)
    if count == 1:
        return run_service(settings)
    listeners = open_listeners(settings)
    log.info("%d instances", count)
    return asyncio.run(_supervise(settings, arguments, count, listeners))


async def _supervise(settings: Settings, arguments: Sequence[str], count: int, listeners: ListeningSockets) -> int:
    return await InstanceSupervisor(settings, arguments, count, listeners).run()
