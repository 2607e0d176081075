"""The server of the HTTP process: listening sockets, signals, and a shutdown that loses no request."""

import asyncio
import errno
import logging
import math
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.api.dependencies import Service
from app.api.early_refusal import EarlyRefusals
from app.configuration.settings import Settings
from app.errors import BadParameter
from app.machine.signals import ALL, outside
from app.server.connection import Connection
from app.server.connection_limits import MAX_ADMIN_CONNECTIONS, MAX_PROBE_CONNECTIONS, ConnectionLimiter, StartScheduler
from app.server.refusal_log import RefusalLog
from app.server.refusal_pacer import RefusalPacer
from app.serving.repository import Repository

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves `app`, made with `settings`, until SIGTERM or Ctrl-C.

    SIGTERM ends readiness at once; requests are accepted for `grace_seconds` more, so that the load balancer can
    notice. Then the port closes, and accepted requests are finished within `drain_seconds`. Ctrl-C, or a second signal,
    skips the grace period. SIGHUP reads the models on disk again.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._settings = settings
        self._service: Service = app.state.service
        self._reloads: set[asyncio.Task[Any]] = set()
        self._refusal_log = RefusalLog()
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=self._protocol(),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
            )
        )

    def run_until_stopped(self) -> None:
        """Bind, serve, drain. Raises BadParameter if a port cannot be bound, before anything is loaded."""
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))  # the settings limit connections
        sockets = listen(self._settings.host, self._settings.port, self.config.backlog)
        if self._settings.admin_port is not None:
            admin = listen(self._settings.admin_host, self._settings.admin_port, self.config.backlog)
            self._service.access.admin_port = admin[0].getsockname()[1]
            sockets += admin
        self.run(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if outside.reload:
            self._reload()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._refusal_log.write()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self._terminate,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ALL)  # while they have no handler
            for number in handlers:
                loop.remove_signal_handler(number)
            outside.take()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL)

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

            def limiter_of(self, port: int) -> ConnectionLimiter:
                return admin if port == service.access.admin_port else public

            def pacer_of(self, port: int) -> RefusalPacer:
                return no_pacer if port == service.access.admin_port else pacer

        return ServiceConnection

    def _terminate(self) -> None:
        if self._service.stopping or not self.started:
            self._stop()
            return
        log.info("stopping: no longer ready, the port closes in %g s", self._settings.grace_seconds)
        self._service.stopping = True
        asyncio.get_running_loop().call_later(self._settings.grace_seconds, self._stop)

    def _stop(self) -> None:
        if self.should_exit:
            return
        self._service.stopping = True
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


def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`, all with the same port number.

    "::" accepts IPv4 too. An address that this machine does not have is skipped if there is another one. BadParameter
    if none is left, or if one is in use.
    """
    name = host.removeprefix("[").removesuffix("]")
    requested = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    try:
        addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as err:
        raise BadParameter(f"cannot listen on {requested}: {name!r} is not the name or address of a host") from err
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in addresses):
        number = listeners[0].getsockname()[1] if listeners else port
        try:
            listeners.append(_bound(family, (address[0], number, *address[2:]), backlog, both=name == "::"))
        except OSError as err:
            failure = err
            if err.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
        else:
            log.info("listening on %s", _url(listeners[-1]))
    if not listeners or (failure is not None and failure.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
        for listener in listeners:
            listener.close()
        assert failure is not None
        raise BadParameter(f"cannot listen on {requested}: {failure.strerror}") from failure
    return listeners


def _bound(family: int, address: tuple[Any, ...], backlog: int, *, both: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        listener.bind(address)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    address, port, *flow_and_scope = listener.getsockname()
    if listener.family != socket.AF_INET6:
        return f"http://{address}:{port}"
    zone = f"%25{socket.if_indextoname(flow_and_scope[1])}" if flow_and_scope[1] else ""  # RFC 6874
    return f"http://[{address.partition('%')[0]}{zone}]:{port}"
