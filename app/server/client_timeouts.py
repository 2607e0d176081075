"""How long a connection waits for its client: to send, to read, or to show that it is still there."""

import asyncio
import math
import select
from asyncio import TimerHandle
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

_RESET_POLL_SECONDS = 0.1
_FIRST_RESET_PROBE_SECONDS = 0.5


class ClientTimeouts:
    """The time limits of one connection's client.

    A deadline that moves costs no timer: the one that is set already looks at the deadline when it is due.

    Args:
        transport: of the connection.
        flow: whether the service itself has paused reading: then the client is not late.
        cut_off: ends the connection; it is given the reason, "" for an idle client that needs no log line.
    """

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, cut_off: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._flow = flow
        self._cut_off = cut_off
        self._seconds, self._why = 0.0, ""
        self._deadline = math.inf
        self._due = math.inf  # when the timer looks at the deadline
        self._receive_timer: TimerHandle | None = None
        self._send_timer: TimerHandle | None = None

    def await_bytes(self, seconds: float, why: str = "") -> None:
        """Cut the client off unless it sends something within `seconds`, in the place of any earlier limit."""
        self._seconds, self._why = seconds, why
        self._deadline = self._loop.time() + seconds
        if self._deadline < self._due:
            self._set_receive_timer(self._deadline)

    def await_no_bytes(self) -> None:
        """Let the client send nothing for as long as it likes."""
        self._deadline = math.inf

    def await_reading(self, seconds: float) -> None:
        """Cut the client off unless it reads its response within `seconds`."""
        self.stop_awaiting_reading()
        self._send_timer = self._loop.call_later(seconds, self._cut_off, "it does not read its response")

    def stop_awaiting_reading(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def await_reset(self, waits: Callable[[], bool], probe: Callable[[], None]) -> None:
        """Detect a client that has closed the connection: it sends the same FIN as one that only stopped sending.

        The system of a client that has closed answers any byte with a reset. So while a request waits, the client is
        sent interim responses by `probe`, at doubling intervals: one that still reads must accept them at any time (RFC
        9110, 15.2). This goes on while `waits()`.
        """
        self._poll_for_reset(waits, probe, self._loop.time(), _FIRST_RESET_PROBE_SECONDS)

    def close(self) -> None:
        """Cut nobody off any more: the connection is lost."""
        self.stop_awaiting_reading()
        if self._receive_timer is not None:
            self._receive_timer.cancel()
        del self._cut_off  # it refers to the connection: a cycle that only the garbage collector would free

    def _set_receive_timer(self, due: float) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
        self._due = due
        self._receive_timer = self._loop.call_at(due, self._on_receive_timer)

    def _on_receive_timer(self) -> None:
        self._receive_timer, self._due = None, math.inf
        if self._loop.time() < self._deadline:
            if self._deadline != math.inf:
                self._set_receive_timer(self._deadline)
        elif self._flow.read_paused:
            self.await_bytes(self._seconds, self._why)
        else:
            self._cut_off(self._why)

    def _poll_for_reset(
        self, waits: Callable[[], bool], probe: Callable[[], None], since: float, probe_after: float
    ) -> None:
        if self._transport.is_closing() or not waits():
            return
        if _is_reset(self._transport):
            self._cut_off("it has closed the connection")
            return
        if self._loop.time() - since >= probe_after:
            probe()
            probe_after *= 2
        self._loop.call_later(_RESET_POLL_SECONDS, self._poll_for_reset, waits, probe, since, probe_after)


def _is_reset(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return bool(poll.poll(0))  # poll reports POLLHUP and POLLERR without being asked for them
