"""HTTP/1.1 on one connection: bytes in, requests to the application, answers out, all within limits (RFC 9112).

httptools parses, and uvicorn writes the answers. A slow client is cut off. What cannot be a request is refused with the
reason, in the order of the requests, and no answer is lost because its client is still sending.
"""

import asyncio
import logging
import select
import uuid
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from app.api.entry_middleware import without_prefix
from app.api.observability_middleware import PROBES
from app.api.schemas import OipError, Problem
from app.configuration.settings import Settings
from app.server.connection_limits import ConnectionState, Port, Turns
from app.server.request_head import RequestHead, RequestRefused, no_body, not_http

log = logging.getLogger(__name__)

_FRAMING_BYTES = 1 << 20  # of a request, beside its body; a single-byte chunk has five, and costs about 2 microseconds
_FRAMING_SHARE = 10  # and one byte more for so many of the body: chunks of 64 bytes need no more
_MAX_PIPELINED = 16
_WITH_BODY = ("PATCH", "POST", "PUT")
_FOLLOWING_SECONDS = 0.05  # for a body that a request has not told of
_AT_ONCE = PROBES - {"/metrics"}  # which takes longer than the others
_LINGERING_SECONDS = 3.0  # without a byte
_OPENING_BYTES = 64  # of a request, kept to say what it is if it is not HTTP
_LOOK_SECONDS = 0.1
_FIRST_PROBE_SECONDS = 0.5
_SLOW_HEAD = "its headers come too slowly"
_IPV4_MAPPED = "::ffff:"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

App = Callable[..., Any]


class Connection(asyncio.Protocol):
    """One connection, in the interface that uvicorn.Server wants.

    `port_of` gives the Port that counts it, and requests start in `turns`, but for probes.
    """

    limits: Settings
    turns: Turns
    port_of: Callable[[int], Port]

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
        self._timer: TimerHandle | None = None  # for what the client has to send
        self._writing: TimerHandle | None = None  # for reading what it is sent
        # The request that is read
        self._parser = httptools.HttpRequestParser(self)
        self._head = RequestHead()
        self._bodiless = False  # the last one is to have a body by its method, tells of none, and no other has come
        self._between = True  # requests
        self._in_head = True
        self._offers_upgrade = False
        self._opening = b""
        self._wire_bytes = 0  # of the request, with all its framing
        self._body_bytes = 0
        self._refusal: RequestRefused | None = None  # raised in a callback of the parser
        # Those that are answered: the last one that was read, the one that is answered now, and those behind it
        self._last: _Cycle | None = None
        self._running: _Cycle | None = None
        self._pipeline: deque[tuple[_Cycle, App]] = deque()
        # The end
        self._deaf = False  # what comes is read and dropped
        self._lingering = False  # the last answer is out
        self._lingers_until = 0.0
        self._at_end = False  # of what the client sends
        self._stopping = False

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._flow = FlowControl(transport)
        self._server = _plain(get_local_addr(transport))
        self._client = _plain(get_remote_addr(transport))
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # those that uvicorn waits for at its end
        self._port = self.port_of(self._server[1] if self._server else 0)
        self._port.add(self)
        self._expect_within(self.limits.header_seconds, "it sends no request")

    def connection_lost(self, _: Exception | None) -> None:
        self._expect_within(None)
        self._write_within(None)
        self._server_state.connections.discard(self)
        self._port.remove(self)
        self._pipeline.clear()
        self._disconnect()
        self._flow.resume_writing()
        del self._parser  # which has this object

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._linger()
        if self._deaf or self._transport.is_closing():
            return
        if self._between and not self._opening:
            self._opening = data[:_OPENING_BYTES]
            self._expect_within(self.limits.header_seconds, _SLOW_HEAD)
        elif self._in_head and 0 < len(self._opening) < _OPENING_BYTES:
            self._opening += data[: _OPENING_BYTES - len(self._opening)]
        self._wire_bytes += len(data)
        try:
            self._feed(data)
            framing = self._wire_bytes - self._body_bytes
            if framing > _FRAMING_BYTES + self._body_bytes // _FRAMING_SHARE:
                detail = f"the request has {framing:,} bytes of framing around {self._body_bytes:,} of body"
                raise RequestRefused(HTTPStatus.BAD_REQUEST, f"{detail}: send larger chunks")
        except RequestRefused as refused:
            self._refuse(refused)
        except httptools.HttpParserCallbackError as err:
            if self._refusal is None:
                log.error("a request of %s cannot be taken", self._peer, exc_info=err)
            self._refuse(self._refusal or RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed"))
        except httptools.HttpParserError as err:
            self._refuse(no_body() if self._bodiless else not_http(err, self._opening))
        else:
            self._report()

    def eof_received(self) -> bool:
        """The client sends no more; it may still read (RFC 9112, 9.6). Returns whether the connection stays open."""
        if self._at_end:  # reading was resumed, and there is nothing to read
            return self._owed is not None
        self._at_end = True
        if self._lingering or self._transport.is_closing():
            return False
        if not self._between and not self._deaf:
            part = "head" if self._in_head else f"body, of which {self._body_bytes:,} bytes came"
            self._refuse(RequestRefused(HTTPStatus.BAD_REQUEST, f"the request ends in the middle of its {part}"))
        if self._owed is None:
            return False
        self._owed.keep_alive = False
        self._loop.call_later(_LOOK_SECONDS, self._look_for_reset, self._loop.time(), _FIRST_PROBE_SECONDS)
        return True

    def pause_writing(self) -> None:
        self._flow.pause_writing()
        self._write_within(self.limits.body_seconds)

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        self._write_within(None)

    # The server's side

    def shutdown(self) -> None:
        """End as soon as everything is answered."""
        self._stopping = True
        if self._owed is None:
            self._transport.close()
        else:
            self._owed.keep_alive = False

    def make_room(self) -> None:
        """End at once: the place is needed."""
        self._transport.abort()

    # The parser's side

    def on_message_begin(self) -> None:
        self._head = RequestHead()
        self._between = False
        self._in_head = True
        self._expect_within(self.limits.header_seconds, _SLOW_HEAD)

    def on_url(self, piece: bytes) -> None:
        self._bodiless = False
        self._or_refuse(self._head.add_target, piece)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._or_refuse(self._head.add_field, name, value, trailer=not self._in_head)

    def on_headers_complete(self) -> None:
        self._or_refuse(self._begin)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        cycle = self._last
        if cycle is None or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._offers_upgrade:  # the head comes once more, and then the body
            return
        self._between = self._in_head = True
        self._opening = b""
        self._wire_bytes = self._body_bytes = 0
        self._expect_within(None)
        if self._last is not None:
            self._last.more_body = False
            self._last.message_event.set()

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse `data`. The parser stops behind a head that offers an upgrade; it goes on as if there were no offer."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as err:
                head = self._head.without_upgrade(self._parser.get_method(), self._parser.get_http_version())
                self._offers_upgrade = False
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)
                data = memoryview(data)[err.args[0] :]
            else:
                return

    def _or_refuse(self, take: Callable[..., None], *values: Any, **named: Any) -> None:
        """Call `take`; the parser hides what a callback raises, so that a refusal is kept here."""
        try:
            take(*values, **named)
        except RequestRefused as refused:
            self._refusal = refused
            raise

    def _begin(self) -> None:
        """Give a request to the application, whose head is complete."""
        method = self._parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, "CONNECT asks for a tunnel: this is no proxy")
        if self._parser.should_upgrade():
            self._offers_upgrade = True
            return
        version = self._parser.get_http_version()
        scope = self._head.scope(method, version)
        if len(self._pipeline) >= _MAX_PIPELINED:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {_MAX_PIPELINED} requests wait on this connection: wait for their answers",
            )
        path = self._without_prefix(scope["path"])
        if self._port.for_probes_alone(self) and path not in PROBES:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE, "all connections that the service takes at once are at work"
            )
        self._in_head = False
        # Longer than the application's own, which answers: this one ends what goes on after the answer.
        self._expect_within(self.limits.body_seconds + 5, "its body comes too slowly")
        keep_alive = version != "1.0" and self._parser.should_keep_alive() and not self._port.for_probes_alone(self)
        expects = version != "1.0" and self._head.expects_continue
        self._bodiless = method in _WITH_BODY and not self._head.has_length
        # What follows the last request is dropped, unless it may be meant as the body of that.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=not self._bodiless)
        self._last = self._cycle(scope, keep_alive, expects)
        self._answer(self._last, self._app, at_once=path in _AT_ONCE)

    def _without_prefix(self, path: str) -> str:
        return without_prefix(path, self.limits.root_path or "")

    # Answers, one after the other

    @property
    def _owed(self) -> "_Cycle | None":
        """The last request that has no whole answer yet."""
        if self._pipeline:
            return self._pipeline[-1][0]
        return None if self._running is None or self._running.response_complete else self._running

    def _cycle(self, request: dict[str, Any], keep_alive: bool, expects_continue: bool = False) -> "_Cycle":
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
        return _Cycle(
            scope=scope,  # type: ignore[arg-type]
            transport=_LastingTransport(self._transport, self._finish),  # type: ignore[arg-type]
            flow=self._flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=self._server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            keep_alive=keep_alive,
            on_response=self._answered,
        )

    def _answer(self, cycle: "_Cycle", app: App, *, at_once: bool = False) -> None:
        """Have `app` answer in a turn of its own, or at once; in any case after what was asked before."""
        if self._running is not None and not self._running.response_complete:
            self._flow.pause_reading()
            self._pipeline.append((cycle, app))
            return
        self._running = cycle
        start = partial(self._start, cycle, app)
        if at_once:
            start()
        elif self._bodiless and cycle is self._last:
            self._loop.call_later(_FOLLOWING_SECONDS, self.turns.take, start)
        else:
            self.turns.take(start)

    def _start(self, cycle: "_Cycle", app: App) -> None:
        if cycle.disconnected:  # meanwhile
            return
        task = self._loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    def _answered(self) -> None:
        self._server_state.total_requests += 1
        if self._lingering or self._transport.is_closing():
            return
        self._flow.resume_reading()
        if self._pipeline:
            self._answer(*self._pipeline.popleft())
        elif self._between:
            self._expect_within(self.limits.keep_alive_seconds, "")
        self._report()

    def _disconnect(self) -> None:
        """Tell the request that is answered now that nobody reads it."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _refuse(self, refused: RequestRefused) -> None:
        """Answer the request that is read now in the application's place, after those before it; read no other."""
        log.info("the client %s is refused: %d, %s", self._peer, refused.status, refused.detail)
        self._deaf = True
        self._expect_within(None)
        in_body = not self._in_head or (self._bodiless and self._owed is self._last)
        if in_body and self._last is not None:  # the application may have it already
            if self._pipeline:
                self._pipeline.pop()
            elif self._last.response_complete:
                self._finish()
                return
            elif self._last.response_started:
                self._last.keep_alive = False
                return
            else:
                self._disconnect()
                self._running = None
        method = "HEAD" if self._opening.startswith(b"HEAD ") else "GET"
        path = str(self._last.scope["path"]) if self._bodiless and self._last else self._head.target.decode("latin-1")
        inference = self._without_prefix(path).startswith("/v2")
        cycle = self._cycle({"method": method, "path": "", "raw_path": b"", "headers": []}, keep_alive=False)
        cycle.more_body = False
        self._answer(cycle, _refusal(refused, inference=inference))
        self._report()

    def _finish(self) -> None:
        """End the connection behind the last answer, but read on until the client has ended it too, for a while.

        If it were closed at once while the client still sends, the client's system would drop the answer unread
        (RFC 9112, 9.6).
        """
        if self._lingering or self._transport.is_closing():
            return
        self._lingering = self._deaf = True
        self._pipeline.clear()
        if self._at_end or (self._stopping and self._between):
            self._transport.close()
            return
        self._transport.write_eof()
        self._flow.resume_reading()
        self._lingers_until = self._loop.time() + self.limits.body_seconds
        self._linger()
        self._report()

    def _linger(self) -> None:
        """Wait for what the client still sends, but not for long."""
        self._expect_within(min(_LINGERING_SECONDS, max(0, self._lingers_until - self._loop.time())))

    # Clients that are slow, or gone

    @property
    def _peer(self) -> str:
        return self._client[0] if self._client else ""

    def _report(self) -> None:
        """Tell the port what this connection waits for."""
        if self._transport.is_closing():
            return
        if self._lingering or self._owed is None:
            state = ConnectionState.IDLE
        elif self._in_head:
            state = ConnectionState.WORKING
        else:
            state = ConnectionState.RECEIVING
        self._port.move(self, state)

    def _expect_within(self, seconds: float | None, why: str = "") -> None:
        """Cut the client off unless what it sends is there in time; without a reason to tell it is just closed."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._is_late, seconds, why)

    def _is_late(self, seconds: float, why: str) -> None:
        if self._flow.read_paused:  # it is not the client that is late
            self._expect_within(seconds, why)
        elif why:
            self._cut_off(why)
        else:
            self._transport.abort()

    def _write_within(self, seconds: float | None) -> None:
        if self._writing is not None:
            self._writing.cancel()
        late = "it does not read its answer"
        self._writing = None if seconds is None else self._loop.call_later(seconds, self._cut_off, late)

    def _cut_off(self, why: str) -> None:
        log.info("the client %s is cut off: %s", self._peer, why)
        self._pipeline.clear()
        self._disconnect()
        self._transport.abort()

    def _look_for_reset(self, since: float, probe_after: float) -> None:
        """Find out whether a client that sends no more has gone altogether: either way, all that came is its FIN.

        A system whose client has gone answers what it is sent with a reset. So a request that waits is sent an interim
        response, now and then; whoever still reads can take one at any time (RFC 9110, 15.2). HTTP/1.0 has none.
        """
        if self._transport.is_closing() or self._lingering:
            return
        if _is_reset(self._transport):
            self._cut_off("it has closed the connection")
            return
        running = self._running
        if self._loop.time() - since >= probe_after and running is not None:
            if running.scope["http_version"] != "1.0" and not running.response_started:
                self._transport.write(_CONTINUE)
            probe_after *= 2
        self._loop.call_later(_LOOK_SECONDS, self._look_for_reset, since, probe_after)


class _Cycle(RequestResponseCycle):
    """A request and its answer."""

    async def send(self, message: Any) -> None:
        if self.waiting_for_100_continue and self.more_body:
            self.keep_alive = False  # whether the body comes nobody knows, RFC 9110, 10.1.1
        await super().send(message)


class _LastingTransport:
    """What a cycle sees of the transport: `finish` is called in place of its close."""

    def __init__(self, transport: asyncio.Transport, finish: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = finish


def _refusal(refused: RequestRefused, *, inference: bool) -> App:
    """An application that answers as app.api.problems does."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        status = refused.status
        problem = Problem(title=status.phrase, status=status, detail=refused.detail, request_id=uuid.uuid4().hex)
        body = OipError(error=refused.detail) if inference else problem
        kind = b"application/json" if inference else b"application/problem+json"
        headers = {b"content-type": kind, b"x-request-id": problem.request_id.encode()}
        await _respond(send, status, body.model_dump_json().encode(), headers)

    return app


async def _respond(send: Any, status: HTTPStatus, body: bytes, headers: dict[bytes, bytes]) -> None:
    headers |= {b"content-length": b"%d" % len(body), b"x-content-type-options": b"nosniff"}
    await send({"type": "http.response.start", "status": int(status), "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})


def _plain(address: tuple[str, int | None] | None) -> tuple[str, int] | None:
    """The address of an IPv4 client as such where it came to a socket of IPv6."""
    return None if address is None else (address[0].removeprefix(_IPV4_MAPPED), address[1] or 0)


def _is_reset(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return bool(poll.poll(0))  # POLLHUP and POLLERR are always told
