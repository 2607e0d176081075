"""What connections share: the limit of a port's connections, and the order in which requests start."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Protocol

log = logging.getLogger(__name__)

MAX_ADMIN_CONNECTIONS = 50  # on the admin port, in addition to those of the other port
MAX_PROBE_CONNECTIONS = 20  # in addition to the others while all of those are busy
_STALLED_BODY_SECONDS = 5.0
_SECONDS_BETWEEN_LOG_LINES = 10.0


class ConnectionState(Enum):
    """What a connection waits for."""

    IDLE = "a request, the rest of its head, or the client's close"
    RECEIVING = "the rest of a body"
    WORKING = "an answer"


class LimitedConnection(Protocol):
    """A connection as ConnectionLimiter sees it."""

    def abort(self) -> None:
        """Close at once."""


class StartScheduler:
    """Starts one request in each iteration of the event loop, in order: other connections are served in between."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def schedule(self, start: Callable[[], None]) -> None:
        """Call `start`, which must not raise, after all that are scheduled already."""
        self._waiting.append(start)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._start_next)

    def _start_next(self) -> None:
        self._waiting[0]()
        self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._start_next)


class ConnectionLimiter:
    """Limits the connections of one port.

    A new connection beyond `max_connections` takes the place of the one that has been idle longest, or of one whose
    body has stopped arriving. If there is none, the new one may only send probes; beyond `max_probes` of those, the
    one that has been idle longest is closed, which may be the new one.

    Args:
        max_connections: for all requests.
        max_probes: probe-only connections in addition.
    """

    def __init__(self, max_connections: int, max_probes: int = 0) -> None:
        self._max_connections = max_connections
        self._max_probes = max_probes
        # Oldest first, with the time when each connection entered the state or last received something in it.
        self._since: dict[ConnectionState, dict[LimitedConnection, float]] = {state: {} for state in ConnectionState}
        self._probe_only: set[LimitedConnection] = set()
        self._closed = 0
        self._last_log_line = -_SECONDS_BETWEEN_LOG_LINES

    def __len__(self) -> int:
        return sum(map(len, self._since.values()))

    def add(self, connection: LimitedConnection) -> None:
        """Count a new connection, and close one, possibly the new one, if there are too many."""
        self._since[ConnectionState.IDLE][connection] = time.monotonic()
        if len(self) <= self._max_connections:
            return
        if (replaceable := self._replaceable_by(connection)) is not None:
            self._close(replaceable)
        else:
            self._probe_only.add(connection)
            if len(self) > self._max_connections + self._max_probes:
                self._close(next(iter(self._since[ConnectionState.IDLE])))

    def set_state(self, connection: LimitedConnection, state: ConnectionState) -> None:
        """`connection` has entered `state`, or has received something in it. One that stays IDLE keeps its time."""
        if state is ConnectionState.IDLE and connection in self._since[state]:
            return
        for connections in self._since.values():
            connections.pop(connection, None)
        self._since[state][connection] = time.monotonic()

    def remove(self, connection: LimitedConnection) -> None:
        self._probe_only.discard(connection)
        for connections in self._since.values():
            connections.pop(connection, None)

    def is_probe_only(self, connection: LimitedConnection) -> bool:
        """Whether `connection` was made while all others were busy, and there still are too many."""
        return connection in self._probe_only and len(self) > self._max_connections

    def _replaceable_by(self, new: LimitedConnection) -> LimitedConnection | None:
        for connection in self._since[ConnectionState.IDLE]:
            if connection is not new and connection not in self._probe_only:
                return connection
        for connection, since in self._since[ConnectionState.RECEIVING].items():
            return connection if time.monotonic() - since >= _STALLED_BODY_SECONDS else None
        return None

    def _close(self, connection: LimitedConnection) -> None:
        self._closed += 1
        if (
            time.monotonic() - self._last_log_line >= _SECONDS_BETWEEN_LOG_LINES
        ):  # a flood of connections must not fill the log
            log.warning("more than %d connections: %d closed to make room", self._max_connections, self._closed)
            self._last_log_line = time.monotonic()
            self._closed = 0
        self.remove(connection)
        connection.abort()
