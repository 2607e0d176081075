"""HTTP/1.1 on one connection (RFC 9112): bytes in, requests to the application, responses out, all within limits.

httptools parses the requests, and a RequestCycle runs the application and writes its responses. From top to bottom:
what the transport, the server and the parser call, then the responses, in the order of their requests (RFC 9112,
9.3.2), the refusals, the end of the connection (9.6), and the timeouts of slow clients.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from app.api.early_refusal import EarlyRefusal, EarlyRefusals
from app.api.entry_middleware import strip_prefix
from app.api.observability_middleware import PROBE_PATHS
from app.configuration.settings import Settings
from app.server.client_timeouts import ClientTimeouts
from app.server.connection_limits import ConnectionLimiter, ConnectionState, StartScheduler
from app.server.refusal_log import RefusalLog
from app.server.refusal_pacer import RefusalPacer
from app.server.refusal_response import refusal_app
from app.server.request_cycle import CONTINUE, RequestCycle, ResponseTransport
from app.server.request_head import RequestHead, RequestRefused, explain_parse_error, missing_length

log = logging.getLogger(__name__)

# A request's framing, all its bytes but the body, may have this many bytes, plus one for every ten of the body. Chunks
# of 64 bytes need no more. A chunk of one byte has five bytes of framing, and costs about 2 microseconds.
_FREE_FRAMING_BYTES = 1 << 20
_BODY_BYTES_PER_FRAMING_BYTE = 10
_MAX_PIPELINED_REQUESTS = 16
_MAX_UNREAD_BODY_BYTES = 128 << 10  # of a request, beyond which no more is received until the application has read them
_METHODS_WITH_BODY = ("PATCH", "POST", "PUT")
_UNDECLARED_BODY_SECONDS = 0.05
_IMMEDIATE_PATHS = PROBE_PATHS - {"/metrics"}  # /metrics takes longer than the other probes
_MAX_LINGER_SILENT_SECONDS = 3.0
_KEPT_FIRST_BYTES = 64  # enough to recognise another protocol than HTTP
_PACED_STATUSES = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_MAX_DROPPED_BODY_BYTES = 1 << 20  # of a refused request; beyond it, closing the connection costs less
_SLOW_HEAD = "its headers arrive too slowly"
_IPV4_MAPPED_PREFIX = "::ffff:"

App = Callable[..., Any]


# All connections receive into the same memory: what arrives is parsed before the next one receives.
_RECEIVED = bytearray(256 << 10)


class Connection(asyncio.BufferedProtocol):
    """One connection, with the interface that uvicorn.Server expects; app.server.listener sets the attributes.

    Attributes:
        settings: they have the time limits and the path prefix.
        start_scheduler: it starts the requests, except probes.
        early_refusals: decides which requests need not start.
        refusal_log: counts those.
        leaving: whether connections end with the answers to the requests that have arrived.
        limiter_of: gives the limiter of the connections of a port, by its number.
        pacer_of: gives the pacer of a port's refusals.
    """

    settings: Settings
    start_scheduler: StartScheduler
    early_refusals: EarlyRefusals
    refusal_log: RefusalLog
    leaving: Callable[[], bool]
    pacer_of: Callable[[int], RefusalPacer]
    limiter_of: Callable[[int], ConnectionLimiter]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app: App = config.loaded_app
        self._app_state = app_state
        self._server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        # The request that is being read
        self._parser = httptools.HttpRequestParser(self)
        self._head = RequestHead()
        self._undeclared_body = False  # the last request's method expects a body, and its head declares none
        self._between_requests = True
        self._in_head = True
        self._offers_upgrade = False
        self._first_bytes = b""
        self._wire_bytes = 0  # of the request, framing included
        self._body_bytes = 0
        self._refusal: RequestRefused | None = None  # raised in a parser callback
        # The requests that are being answered
        self._last_read: RequestCycle | None = None
        self._current: RequestCycle | None = None  # its response is being made or sent
        self._pipeline: deque[tuple[RequestCycle, App]] = deque()  # they wait for the current one
        self._waits_for_turn = False  # the last request was refused
        # The end of the connection
        self._ignores_input = False  # bytes are read and dropped
        self._lingering = False  # the last response is sent, and the client may still be sending
        self._linger_deadline = 0.0
        self._received_eof = False
        self._stopping = False

    # Called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._flow = FlowControl(transport)
        self._timeouts = ClientTimeouts(transport, self._flow, self._cut_off)
        self._server = _unmapped(get_local_addr(transport))
        self._client = _unmapped(get_remote_addr(transport))
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn waits for them at its end
        port = self._server[1] if self._server else 0
        self._limiter = self.limiter_of(port)
        self._pacer = self.pacer_of(port)
        self._limiter.add(self)
        self._timeouts.await_bytes(self.settings.header_seconds, "it sends no request")

    def connection_lost(self, _: Exception | None) -> None:
        self._timeouts.close()
        self._server_state.connections.discard(self)
        self._limiter.remove(self)
        self._pipeline.clear()
        self._disconnect()
        self._flow.resume_writing()
        del self._parser  # it refers to this object: a cycle that only the garbage collector would free

    def get_buffer(self, _: int) -> bytearray:
        return _RECEIVED

    def buffer_updated(self, size: int) -> None:
        data = memoryview(_RECEIVED)[:size]
        if self._lingering:
            self._linger()
        if self._ignores_input or self._transport.is_closing():
            return
        if self._between_requests and not self._first_bytes:
            self._first_bytes = bytes(data[:_KEPT_FIRST_BYTES])
            self._timeouts.await_bytes(self.settings.header_seconds, _SLOW_HEAD)
        elif self._in_head and 0 < len(self._first_bytes) < _KEPT_FIRST_BYTES:
            self._first_bytes += data[: _KEPT_FIRST_BYTES - len(self._first_bytes)]
        self._wire_bytes += len(data)
        try:
            self._parse(data)
            framing = self._wire_bytes - self._body_bytes
            if framing > _FREE_FRAMING_BYTES + self._body_bytes // _BODY_BYTES_PER_FRAMING_BYTE:
                detail = f"the request has {framing:,} bytes of framing around {self._body_bytes:,} of body"
                raise RequestRefused(HTTPStatus.BAD_REQUEST, f"{detail}: send larger chunks")
        except RequestRefused as refused:
            self._refuse(refused)
        except httptools.HttpParserCallbackError as err:
            if self._refusal is None:
                log.error("a request of %s could not be read", self._peer, exc_info=err)
            self._refuse(self._refusal or RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed"))
        except httptools.HttpParserError as err:
            self._refuse(missing_length() if self._undeclared_body else explain_parse_error(err, self._first_bytes))
        else:
            self._limit_dropped_body()
            self._update_state()

    def eof_received(self) -> bool:
        """The client has stopped sending and may still read (RFC 9112, 9.6); whether the connection stays open."""
        if self._received_eof:  # called again after reading was resumed
            return self._last_unanswered is not None
        self._received_eof = True
        if self._lingering or self._transport.is_closing():
            return False
        if not self._between_requests and not self._ignores_input:
            part = "head" if self._in_head else f"body, of which {self._body_bytes:,} bytes arrived"
            self._refuse(RequestRefused(HTTPStatus.BAD_REQUEST, f"the request ends in the middle of its {part}"))
        if self._last_unanswered is None:
            return False
        self._last_unanswered.keep_alive = False
        self._timeouts.await_reset(lambda: not self._lingering, self._send_interim_response)
        return True

    def pause_writing(self) -> None:
        self._flow.pause_writing()
        self._timeouts.await_reading(self.settings.body_seconds)

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        self._timeouts.stop_awaiting_reading()

    # Called by the server

    def shutdown(self) -> None:
        """Close as soon as every request is answered."""
        self._stopping = True
        if self._last_unanswered is None:
            self._transport.close()
        else:
            self._last_unanswered.keep_alive = False

    def abort(self) -> None:
        """Close at once: another connection needs the place. A refusal that waits for its turn is sent first."""
        current = self._current
        if current is None or current.refusal is None or current.response_complete:
            self._transport.abort()
            return
        self._transport.write(self._early_response(current, current.refusal, closes=True))
        current.response_complete = True
        self._transport.close()

    # Called by the parser

    def on_message_begin(self) -> None:
        self._head = RequestHead()
        self._between_requests = False
        self._in_head = True
        self._timeouts.await_bytes(self.settings.header_seconds, _SLOW_HEAD)

    def on_url(self, piece: bytes) -> None:
        self._undeclared_body = False
        self._keep_refusal(self._head.add_target, piece)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._keep_refusal(self._head.add_field, name, value, trailer=not self._in_head)

    def on_headers_complete(self) -> None:
        self._keep_refusal(self._begin_request)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        cycle = self._last_read
        if cycle is None or cycle.response_complete or cycle.refusal is not None:
            return
        if cycle.add_body(body) > _MAX_UNREAD_BODY_BYTES:
            self._flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._offers_upgrade:  # _parse feeds the head again, without the offer, and then the body
            return
        self._between_requests = self._in_head = True
        self._first_bytes = b""
        self._wire_bytes = self._body_bytes = 0
        answered = self._last_unanswered is None  # before all of the body was here
        if answered:
            self._timeouts.await_bytes(self.settings.keep_alive_seconds)
        else:
            self._timeouts.await_no_bytes()
        if self._last_read is not None:
            self._last_read.more_body = False
            self._last_read.message_event.set()

    def _parse(self, data: memoryview) -> None:
        """Parse `data`. An offered upgrade is ignored (RFC 9110, 7.8): the parser, which stops there, is replaced."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as err:
                head = self._head.without_upgrade(self._parser.get_method(), self._parser.get_http_version())
                self._offers_upgrade = False
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)
                data = data[err.args[0] :]
            else:
                return

    def _keep_refusal(self, function: Callable[..., None], *values: Any, **named: Any) -> None:
        """Call `function` and keep its RequestRefused: the parser replaces the exceptions of its callbacks."""
        try:
            function(*values, **named)
        except RequestRefused as refused:
            self._refusal = refused
            raise

    def _begin_request(self) -> None:
        """Hand a request whose head is complete to the application. Raises RequestRefused."""
        method = self._parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise RequestRefused(
                HTTPStatus.NOT_IMPLEMENTED, "CONNECT asks for a tunnel, but this service is not a proxy"
            )
        if self._parser.should_upgrade():
            self._offers_upgrade = True
            return
        version = self._parser.get_http_version()
        scope = self._head.scope(method, version)
        if len(self._pipeline) >= _MAX_PIPELINED_REQUESTS:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {_MAX_PIPELINED_REQUESTS} requests wait on this connection: wait for their answers",
            )
        path = self._path_below_prefix(scope["path"])
        if self._limiter.is_probe_only(self) and path not in PROBE_PATHS:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE, "all connections that the service accepts are busy: try again later"
            )
        self._in_head = False
        # Longer than the application's own time limit, which answers 408: this one ends a body that goes on after that.
        self._timeouts.await_bytes(self.settings.body_seconds + 5, "its body arrives too slowly")
        keep_alive = version != "1.0" and self._parser.should_keep_alive() and not self._limiter.is_probe_only(self)
        expects = version != "1.0" and self._head.expects_continue
        self._undeclared_body = method in _METHODS_WITH_BODY and not self._head.has_length
        # Bytes after the last request of a connection are dropped, unless they may be meant as its undeclared body.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=not self._undeclared_body)
        refusal = self._early_refusal(scope, path)
        self._last_read = self._make_cycle(scope, keep_alive, expects)
        if refusal is None:
            self._answer(self._last_read, self._app, at_once=path in _IMMEDIATE_PATHS)
        else:
            self._refuse_early(self._last_read, refusal)

    def _path_below_prefix(self, path: str) -> str:
        return strip_prefix(path, self.settings.root_path or "")

    # Responses, in the order of the requests (RFC 9112, 9.3.2)

    @property
    def _last_unanswered(self) -> RequestCycle | None:
        """The last request whose response is not complete."""
        if self._pipeline:
            return self._pipeline[-1][0]
        return None if self._current is None or self._current.response_complete else self._current

    def _make_cycle(self, request: dict[str, Any], keep_alive: bool, expects_continue: bool = False) -> RequestCycle:
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "query_string": b"",
            "state": self._app_state.copy(),
        } | request
        return RequestCycle(
            scope=scope,
            transport=ResponseTransport(self._transport, self._close_gracefully),
            flow=self._flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=self._server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            keep_alive=keep_alive,
            on_response=self._on_response_sent,
            ends_connection=self._ends_with_current,
        )

    def _ends_with_current(self) -> bool:
        return self.leaving() and not self._pipeline and not self._flow.read_paused  # then more may have arrived

    def _answer(self, cycle: RequestCycle, app: App, *, at_once: bool = False) -> None:
        """Have `app` answer after all earlier requests: then when it is scheduled, or `at_once`."""
        if self._waits_for_turn or (self._current is not None and not self._current.response_complete):
            self._flow.pause_reading()
            self._pipeline.append((cycle, app))
            return
        self._current = cycle
        start = partial(self._start, cycle, app)
        if at_once:
            start()
        elif self._undeclared_body and cycle is self._last_read:
            self._loop.call_later(_UNDECLARED_BODY_SECONDS, self.start_scheduler.schedule, start)
        else:
            self.start_scheduler.schedule(start)

    def _start(self, cycle: RequestCycle, app: App) -> None:
        if cycle.disconnected:  # while it waited for its start
            return
        task = self._loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    def _on_response_sent(self) -> None:
        self._server_state.total_requests += 1
        if self._lingering or self._transport.is_closing():
            return
        current = self._current
        refused = current is not None and current.refusal is None and current.status in _PACED_STATUSES
        if current is None or not refused or current.scope["path"] in PROBE_PATHS:
            self._go_on()
        else:  # the application is done: it holds no memory while the client waits
            self._waits_for_turn = True
            self._flow.pause_reading()
            self._pacer.schedule(self._go_on)
            self._update_state()

    def _go_on(self) -> None:
        """Go on to the next request."""
        self._waits_for_turn = False
        if self._lingering or self._transport.is_closing():
            return
        self._flow.resume_reading()
        if self._pipeline:
            self._answer(*self._pipeline.popleft())
        elif self._between_requests:
            self._timeouts.await_bytes(self.settings.keep_alive_seconds)
        self._update_state()

    def _disconnect(self) -> None:
        """Tell the application that the client of the current request has gone."""
        if self._current is not None and not self._current.response_complete:
            self._current.disconnect()

    def _early_refusal(self, scope: dict[str, Any], path: str) -> EarlyRefusal | None:
        """The refusal of a request, if its head is enough to decide it, and no earlier request waits for its answer."""
        if (
            scope["method"] != "POST"
            or self._undeclared_body
            or self._waits_for_turn
            or self._last_unanswered is not None
        ):
            return None
        return self.early_refusals.refusal_of(scope | {"client": self._client, "server": self._server}, path)

    def _refuse_early(self, cycle: RequestCycle, refusal: EarlyRefusal) -> None:
        """Send `refusal` when its turn comes. The body is read meanwhile and dropped, unless it is a large one."""
        cycle.refusal = refusal
        large = any(int(length) > _MAX_DROPPED_BODY_BYTES for length in self._head.values(b"content-length"))
        # A client that waits for 100 may send its body or not (RFC 9110, 10.1.1).
        if large or cycle.waiting_for_100_continue:
            cycle.keep_alive = False
        self._current = cycle
        self._pacer.schedule(partial(self._send_early_refusal, cycle, refusal))

    def _send_early_refusal(self, cycle: RequestCycle, refusal: EarlyRefusal) -> None:
        if cycle.response_complete:  # it was sent to make room
            return
        if self._ends_with_current():
            cycle.keep_alive = False
        response = self._early_response(cycle, refusal, closes=not cycle.keep_alive)
        if not cycle.disconnected:
            cycle.send_whole(response)

    def _early_response(self, cycle: RequestCycle, refusal: EarlyRefusal, *, closes: bool) -> bytes:
        """The bytes of the refusal, which is counted."""
        self.refusal_log.count(type(refusal.error).__name__)
        self.early_refusals.count(refusal, time.perf_counter() - cycle.started, sent=not cycle.disconnected)
        return refusal.response(self._server_state.default_headers, closes=closes)

    def _limit_dropped_body(self) -> None:
        """Stop reading the body of a refused request that is a large one."""
        cycle = self._last_read
        if self._in_head or cycle is None or cycle.refusal is None or self._body_bytes <= _MAX_DROPPED_BODY_BYTES:
            return
        if cycle.response_complete:
            self._close_gracefully()
        else:
            cycle.keep_alive = False
            self._flow.pause_reading()

    def _refuse(self, refused: RequestRefused) -> None:
        """Answer the request that is being read in the application's place, after all earlier ones; read no more."""
        log.info("the client %s is refused: %d, %s", self._peer, refused.status, refused.detail)
        self._ignores_input = True
        self._timeouts.await_no_bytes()
        in_body = not self._in_head or (self._undeclared_body and self._last_unanswered is self._last_read)
        if in_body and self._last_read is not None:  # the application may have the request already
            if self._pipeline:
                self._pipeline.pop()
            elif self._last_read.response_complete:
                self._close_gracefully()
                return
            elif self._last_read.response_started:
                self._last_read.keep_alive = False
                return
            else:
                self._disconnect()
                self._current = None
        method = "HEAD" if self._first_bytes.startswith(b"HEAD ") else "GET"
        path = self._head.target.decode("latin-1")
        if self._undeclared_body and self._last_read is not None:
            path = str(self._last_read.scope["path"])
        inference = self._path_below_prefix(path).startswith("/v2")
        cycle = self._make_cycle({"method": method, "path": "", "raw_path": b"", "headers": []}, keep_alive=False)
        cycle.more_body = False
        self._answer(cycle, refusal_app(refused, inference=inference))
        self._update_state()

    # The end of the connection (RFC 9112, 9.6)

    def _close_gracefully(self) -> None:
        """Stop sending after the last response, but go on reading, for a limited time, until the client closes too.

        If the connection were closed while the client still sends, the client's system would receive a reset and drop
        the response unread.
        """
        if self._lingering or self._transport.is_closing():
            return
        self._lingering = self._ignores_input = True
        self._pipeline.clear()
        if self._received_eof or (self._stopping and self._between_requests):
            self._transport.close()
            return
        self._transport.write_eof()
        self._flow.resume_reading()
        self._linger_deadline = self._loop.time() + self.settings.body_seconds
        self._linger()
        self._update_state()

    def _linger(self) -> None:
        """Wait for more bytes or the client's close: seconds after each byte, `body_seconds` in all."""
        self._timeouts.await_bytes(min(_MAX_LINGER_SILENT_SECONDS, max(0, self._linger_deadline - self._loop.time())))

    # Clients that are slow or gone

    @property
    def _peer(self) -> str:
        return self._client[0] if self._client else ""

    def _update_state(self) -> None:
        """Tell the limiter what this connection waits for."""
        if self._transport.is_closing():
            return
        last = self._last_unanswered
        if self._lingering or self._waits_for_turn or last is None or last.refusal is not None:
            state = ConnectionState.IDLE  # a refused request makes room for others
        elif self._in_head:
            state = ConnectionState.WORKING
        else:
            state = ConnectionState.RECEIVING
        self._limiter.set_state(self, state)

    def _cut_off(self, why: str) -> None:
        if why:
            log.info("the client %s is cut off: %s", self._peer, why)
        self._pipeline.clear()
        self._disconnect()
        self._transport.abort()

    def _send_interim_response(self) -> None:
        """Send the client of the current request bytes that it must accept; HTTP/1.0 has none such."""
        current = self._current
        if current is not None and current.scope["http_version"] != "1.0" and not current.response_started:
            self._transport.write(CONTINUE)


def _unmapped(address: tuple[str, int | None] | None) -> tuple[str, int] | None:
    """`address`, as IPv4 where an IPv6 socket shows an IPv4 client (RFC 4291, 2.5.5.2)."""
    return None if address is None else (address[0].removeprefix(_IPV4_MAPPED_PREFIX), address[1] or 0)
