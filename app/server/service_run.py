"""Runs the service in this process, from its first import to its end."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.configuration.settings import Settings
from app.machine.signals import outside
from model.command_line import FAILED

if TYPE_CHECKING:
    from app.api.dependencies import Service
    from app.server.listener import Companion
    from app.server.listening_sockets import ListeningSockets

_ENGINE_MODULES = {  # with the libraries that take long to import
    "auto": ["app.engines.cpu.openvino_engine"],
    "openvino": ["app.engines.cpu.openvino_engine"],
    "onnxruntime": ["app.engines.cpu.onnxruntime_engine"],
}


def run_service(
    settings: Settings,
    *,
    listeners: "ListeningSockets | None" = None,
    instance: int | None = None,
    join: "Callable[[Service], Companion] | None" = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit status. Raises BadParameter and BadBundle at the start.

    Args:
        settings: of this process.
        listeners: to accept from, else the ports of `settings` are bound.
        instance: this one's number of several; None for the only one.
        join: makes the service one of several instances, and gives what runs beside it.
    """
    _start_processes(settings)  # they import on other cores while this process does

    from app.main import create_app
    from app.server.listener import Server
    from app.telemetry import logs

    logs.configure(settings.log_level, settings.log_format, waits=False, instance=instance)
    failed = False

    def stop() -> None:
        nonlocal failed
        failed = server.should_exit = True

    app = create_app(settings, on_failure=stop)
    server = Server(app, settings, join(app.state.service) if join else None)
    server.run_until_stopped(listeners)
    return FAILED if failed else 0


def _start_processes(settings: Settings) -> None:
    from app.processes.process_start import end_spares, start_spare

    outside.cleanup = end_spares
    role = f"engine {settings.model_name or settings.default_model or settings.bundles[0].name}"
    modules = _ENGINE_MODULES.get(settings.engine, [])
    start_spare(role, "app.engines.engine_process.engine_host", *modules, keep_environment=True)
    for _ in range(settings.decoder_count):
        start_spare("decoder", "app.decoding.decoder_worker")
