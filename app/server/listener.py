"""The process of the service: the ports it listens on, the signals, and an end that loses nothing."""

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
from app.configuration.settings import Settings
from app.errors import BadParameter
from app.machine.signals import ALL, outside
from app.server.connection import Connection
from app.server.connection_limits import ADMIN_CONNECTIONS, PROBE_CONNECTIONS, Port, Turns
from app.serving.repository import Repository

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves `app`, made with `settings`, until SIGTERM or Ctrl-C.

    SIGTERM turns readiness off at once; everything goes on for `grace_seconds`, so that whoever balances the load can
    see it. Then the port closes, and what was accepted is finished within `drain_seconds`. Ctrl-C, or a second signal,
    skips the grace. SIGHUP has the models on disk read again.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._settings = settings
        self._service: Service = app.state.service
        self._reloads: set[asyncio.Task[Any]] = set()
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=self._protocol(settings),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
            )
        )

    def run_until_stopped(self) -> None:
        """Bind, serve, drain. Raises BadParameter where a port cannot be had, before anything is loaded."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # connections are limited by the settings
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

    def _protocol(self, settings: Settings) -> type[Connection]:
        public = Port(settings.max_connections, PROBE_CONNECTIONS)
        admin = Port(ADMIN_CONNECTIONS)
        service = self._service

        class Accepted(Connection):
            limits = settings
            turns = Turns()

            def port_of(self, number: int) -> Port:
                return admin if number == service.access.admin_port else public

        return Accepted

    def _terminate(self) -> None:
        if self._service.stopping or not self.started:
            self._stop()
            return
        log.info("stopping: not ready any more, the port closes in %g s", self._settings.grace_seconds)
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
    """Sockets that listen on every address that `host` names, all with the same number.

    "::" takes IPv4 too. An address that this machine has not is passed over if there is another one. BadParameter if
    there is none, or if one is taken.
    """
    name = host.removeprefix("[").removesuffix("]")
    where = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as err:
        raise BadParameter(f"cannot listen on {where}: {name!r} is not the name or the address of a host") from err
    listening: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        number = listening[0].getsockname()[1] if listening else port
        try:
            listening.append(_bound(family, (address[0], number, *address[2:]), backlog, both=name == "::"))
        except OSError as err:
            failure = err
            if err.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
        else:
            log.info("listening on %s", _url(listening[-1]))
    if not listening or (failure is not None and failure.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
        for one in listening:
            one.close()
        assert failure is not None
        raise BadParameter(f"cannot listen on {where}: {failure.strerror}") from failure
    return listening


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
    address, number, *more = listener.getsockname()
    if listener.family != socket.AF_INET6:
        return f"http://{address}:{number}"
    zone = f"%25{socket.if_indextoname(more[1])}" if more[1] else ""  # RFC 6874
    return f"http://[{address.partition('%')[0]}{zone}]:{number}"
