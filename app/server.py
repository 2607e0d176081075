"""uvicorn, with deadlines for slow clients and a way to stop that loses nothing."""

import asyncio
import logging
import math
import resource
import signal
import socket
import uuid
from asyncio import TimerHandle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import BadParameter
from app.repository import Repository
from app.schemas import Problem
from app.service import Service
from app.settings import Settings

log = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 64 * 1024
_FRAMING_BYTES = 1 << 20  # of a request, beside its body
_FREE_CHUNKS = 1000
_LEAST_CHUNK_BYTES = 256  # on average, of those beyond
_MAX_PIPELINED = 16
_REFUSED = (
    "HTTP/1.1 {status} {phrase}\r\nContent-Type: application/problem+json\r\nContent-Length: {length}\r\n"
    "Connection: close\r\nX-Content-Type-Options: nosniff\r\nX-Request-ID: {id}\r\n\r\n"
)


class Server(uvicorn.Server):
    """Serves `app`, made with `settings`, until SIGTERM or Ctrl-C.

    SIGTERM turns readiness off at once; everything goes on for `grace_seconds`, so that whoever balances the load can
    see it. Then the port closes, and what was accepted is finished within `drain_seconds`. Ctrl-C, or a second signal,
    skips the grace. SIGHUP has the models on disk read again.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=_protocol(settings),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(settings.keep_alive_seconds),
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
            )
        )
        self._settings = settings
        self._service: Service = app.state.service
        self._reloads: set[asyncio.Task[Any]] = set()

    def run_until_stopped(self) -> None:
        """Bind, serve, drain. Raises BadParameter where a port cannot be had, before anything is loaded."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # connections are limited by the settings
        sockets = [_bind(self._settings.host, self._settings.port, self.config.backlog)]
        if self._settings.admin_port is not None:
            admin = _bind(self._settings.admin_host, self._settings.admin_port, self.config.backlog)
            self._service.access.admin_port = admin.getsockname()[1]
            sockets.append(admin)
        self.run(sockets=sockets)

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
            for number in handlers:
                loop.remove_signal_handler(number)

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
        task = asyncio.get_running_loop().create_task(_reload(self._service.repository))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


async def _reload(repository: Repository) -> None:
    log.info("reading the models on disk again")
    await repository.reload()


def _bind(host: str, port: int, backlog: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as err:
        raise BadParameter(f"cannot listen on {host}:{port}: {err.strerror}") from err
    address, number = bound.getsockname()[:2]
    log.info("listening on http://%s:%d", f"[{address}]" if ":" in address else address, number)
    return bound


def _protocol(settings: Settings) -> type[HttpToolsProtocol]:
    class Connection(_Connection):
        limits = settings

    return Connection


class _TooMuch(Exception):
    """A request's framing costs more than any honest client's; the parser stops at it."""


class _Connection(HttpToolsProtocol):
    """A connection that is cut off if its client is slow, or if what it sends costs more than it is worth.

    Slow is: with headers, with a body (the application answers that itself; here goes who goes on after its answer), or
    with reading the answer. All limits hold for one read of the socket as well, which is parsed in one go.
    """

    limits: Settings
    _reading: TimerHandle | None = None
    _writing: TimerHandle | None = None
    _in_head = True
    _head_bytes = 0  # of names and values, trailers too
    _wire_bytes = 0  # of the request, with all its framing
    _body_bytes = 0
    _chunks = 0
    _running: RequestResponseCycle | None = None  # `cycle` is the last one that was read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            log.warning("more than %d connections: one is closed", self.limits.max_connections)
            transport.abort()
            return
        self._read_within(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_within(None)
        self._write_within(None)
        self._disconnect()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        """Tell the request that is answered now that nobody reads it."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._wire_bytes += len(data)
        if self._in_head and self._reading is None:
            self._read_within(self.limits.header_seconds)  # the next request of a connection that was kept
        super().data_received(data)
        if self._wire_bytes - self._body_bytes > _FRAMING_BYTES:
            self._cut_off("its request has too much framing")

    def on_message_begin(self) -> None:
        self._head_bytes = self._wire_bytes = self._body_bytes = self._chunks = 0
        self._in_head = True
        self._read_within(self.limits.header_seconds)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        if self._in_head:
            super().on_header(name, value)  # trailers are of no use to anybody here

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise _TooMuch
        self._in_head = False
        # Longer than the application's own, which answers: this one ends what goes on after the answer.
        self._read_within(self.limits.body_seconds + 5)
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > _FREE_CHUNKS + self._body_bytes // _LEAST_CHUNK_BYTES:
            raise _TooMuch

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._read_within(None)
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_within(self.limits.body_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_within(None)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002, the parser's words are not ours
        if self._head_bytes > _MAX_HEADER_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's headers are too long")
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MAX_HEADER_BYTES:
            raise _TooMuch

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer what never becomes a request, as app.problems does, and end the connection."""
        if self._running is not None and not self._running.response_complete:
            if self._in_head or self.pipeline or self._running.response_started:
                self._cut_off("it sends what is not HTTP")  # an answer would be taken for that of an earlier request
                return
            self._disconnect()  # it is this request's own body that is broken
        problem = Problem(title=status.phrase, status=status, detail=detail, request_id=uuid.uuid4().hex)
        body = problem.model_dump_json().encode()
        head = _REFUSED.format(status=status.value, phrase=status.phrase, length=len(body), id=problem.request_id)
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _read_within(self, seconds: float | None) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None if seconds is None else self.loop.call_later(seconds, self._cut_off, "it sends too slowly")

    def _write_within(self, seconds: float | None) -> None:
        if self._writing is not None:
            self._writing.cancel()
        self._writing = None if seconds is None else self.loop.call_later(seconds, self._cut_off, "it does not read")

    def _cut_off(self, why: str) -> None:
        log.info("the client %s is cut off: %s", self.client[0] if self.client else "", why)
        self.pipeline.clear()
        self._disconnect()
        self.transport.abort()
