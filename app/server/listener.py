"""The server of the HTTP process: signals, and a shutdown that loses no request."""

import asyncio
import gc
import logging
import math
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from app.api.dependencies import Service
from app.api.early_refusal import EarlyRefusals
from app.configuration.settings import Settings
from app.machine.signals import handled_by_loop, outside
from app.server.acceptor import Acceptor
from app.server.connection import Connection
from app.server.connection_limits import MAX_ADMIN_CONNECTIONS, MAX_PROBE_CONNECTIONS, ConnectionLimiter, StartScheduler
from app.server.listening_sockets import ListeningSockets, open_listeners
from app.server.refusal_log import RefusalLog
from app.server.refusal_pacer import RefusalPacer
from app.serving.repository import Repository

if TYPE_CHECKING:
    from app.grpc_api.grpc_port import GrpcPort

log = logging.getLogger(__name__)


class Companion(Protocol):
    """What runs beside a server, from its start to its end."""

    async def start(self, server: "Server") -> None: ...
    async def end(self) -> None: ...


class Server(uvicorn.Server):
    """Serves `app`, made with `settings`, until SIGTERM or Ctrl-C.

    SIGTERM ends readiness at once; requests are accepted for `grace_seconds` more, so that the load balancer can
    notice. Then the port closes, and accepted requests are finished within `drain_seconds`. Ctrl-C, or a second signal,
    skips the grace period. SIGHUP reads the models on disk again.
    """

    def __init__(self, app: FastAPI, settings: Settings, companion: Companion | None = None) -> None:
        self._settings = settings
        self._service: Service = app.state.service
        self._grpc_port: GrpcPort | None = app.state.grpc_port
        self._companion = companion
        self._acceptors: list[Acceptor] = []
        self._reloads: set[asyncio.Task[Any]] = set()
        self._refusal_log = RefusalLog()
        self._connection_class = self._protocol()
        super().__init__(
            uvicorn.Config(
                app,
                http=self._connection_class,  # type: ignore[arg-type]  # asyncio takes a BufferedProtocol too
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
            )
        )

    def run_until_stopped(self, listeners: ListeningSockets | None = None) -> None:
        """Serve, then drain; on ports that are bound here unless there are `listeners`.

        Raises BadParameter if a port cannot be bound, before anything is loaded.
        """
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))  # the settings limit connections
        listeners = listeners or open_listeners(self._settings)
        self._service.access.admin_port = listeners.admin_port
        self._service.url = listeners.url
        if self._grpc_port is not None:
            self._grpc_port.addresses = listeners.grpc_addresses
        self.run(sockets=listeners.all)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        gc.freeze()  # what was imported stays: collections need not look at it
        self.servers = []  # it accepts no connections itself
        self._acceptors = [Acceptor(listener, self._new_connection) for listener in sockets or []]
        self.accept(not self._service.away)
        self.started = True
        if self._companion is not None:
            await self._companion.start(self)
        if outside.reload:
            self._reload()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self._acceptors:
            acceptor.pause()
            await acceptor.wait_opened()
        if self._grpc_port is not None:
            self._grpc_port.accept(False)  # the application's end waits for its calls
        await super().shutdown(sockets)
        self._refusal_log.write()
        if self._companion is not None:
            await self._companion.end()

    def stop(self, grace_seconds: float) -> None:
        """End readiness now and close the port after `grace_seconds`; at once if it is stopping already."""
        if self._service.stopping or not self.started:
            self._stop()
            return
        log.info("stopping: no longer ready, the port closes in %g s", grace_seconds)
        self._service.stopping = True
        asyncio.get_running_loop().call_later(grace_seconds, self._stop)

    def accept(self, accepting: bool) -> None:
        """Accept connections, or leave them to other instances; those that there are end with their next answer."""
        self._service.away = not accepting
        for acceptor in self._acceptors:
            if accepting:
                acceptor.resume()
            else:
                acceptor.pause()
        if self._grpc_port is not None:
            self._grpc_port.accept(accepting)

    def retire(self) -> None:
        """Leave all to other instances, and end after the grace period."""
        log.info("retiring: another process has taken this one's place")
        self.accept(False)
        asyncio.get_running_loop().call_later(self._settings.grace_seconds, self._exit)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self._terminate,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload,
        }
        with handled_by_loop(handlers):
            yield

    def _protocol(self) -> type[Connection]:
        public = ConnectionLimiter(self._settings.max_connections, MAX_PROBE_CONNECTIONS)
        admin = ConnectionLimiter(MAX_ADMIN_CONNECTIONS)
        pacer, no_pacer = RefusalPacer(), RefusalPacer(rate=math.inf)
        service = self._service

        class ServiceConnection(Connection):
            settings = self._settings
            start_scheduler = StartScheduler()
            early_refusals = EarlyRefusals(service)
            refusal_log = self._refusal_log

            def leaving(self) -> bool:
                return service.leaving

            def limiter_of(self, port: int) -> ConnectionLimiter:
                return admin if port == service.access.admin_port else public

            def pacer_of(self, port: int) -> RefusalPacer:
                return no_pacer if port == service.access.admin_port else pacer

        return ServiceConnection

    def _new_connection(self) -> Connection:
        return self._connection_class(self.config, self.server_state, self.lifespan.state)

    def _terminate(self) -> None:
        self.stop(self._settings.grace_seconds)

    def _stop(self) -> None:
        self._service.stopping = True
        self._exit()

    def _exit(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        if not self.started:
            outside.reload = True
            return
        task = asyncio.get_running_loop().create_task(_reload(self._service.repository))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


async def _reload(repository: Repository) -> None:
    log.info("reading the models on disk again")
    await repository.reload()
