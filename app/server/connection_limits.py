"""What connections share: the places of a port, where one makes room for another, and the turns of the event loop."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Protocol

log = logging.getLogger(__name__)

ADMIN_CONNECTIONS = 50  # beside those of the other port
PROBE_CONNECTIONS = 20  # beyond the most while all are at work
_SILENT_SECONDS = 5.0  # without a byte of a body
_SECONDS_BETWEEN_LINES = 10.0


class ConnectionState(Enum):
    """What a connection waits for."""

    IDLE = "a request, or the rest of its head, or the client's end"
    RECEIVING = "the rest of a body"
    WORKING = "an answer"


class Counted(Protocol):
    """What is counted here."""

    def make_room(self) -> None:
        """End at once."""


class Turns:
    """Starts one thing in each turn of the event loop, in order, so that others are read and answered in between."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, start: Callable[[], None]) -> None:
        """Call `start`, which must not raise, after all that wait already."""
        self._waiting.append(start)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._waiting[0]()
        self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)


class Port:
    """The connections of one port: `most`, and `probes` more while all of those are at work.

    A new one beyond `most` takes the place of the one that has been idle longest, or of one whose body has stopped
    coming. Where there is none it is for probes alone; beyond those it is closed, or the oldest of them.
    """

    def __init__(self, most: int, probes: int = 0) -> None:
        self._most = most
        self._most_probes = probes
        # The oldest first, with the time when each came into the state or last received something in it.
        self._since: dict[ConnectionState, dict[Counted, float]] = {state: {} for state in ConnectionState}
        self._for_probes: set[Counted] = set()
        self._closed = 0
        self._last_line = -_SECONDS_BETWEEN_LINES

    def __len__(self) -> int:
        return sum(map(len, self._since.values()))

    def add(self, connection: Counted) -> None:
        """Count a new connection, and close one if they are too many; that may be the new one itself."""
        self._since[ConnectionState.IDLE][connection] = time.monotonic()
        if len(self) <= self._most:
            return
        if (waiting := self._waiting(connection)) is not None:
            self._close(waiting)
        else:
            self._for_probes.add(connection)
            if len(self) > self._most + self._most_probes:
                self._close(next(iter(self._since[ConnectionState.IDLE])))

    def move(self, connection: Counted, state: ConnectionState) -> None:
        """`connection` has come into `state`, or has received something there. One that is IDLE keeps its time."""
        if state is ConnectionState.IDLE and connection in self._since[state]:
            return
        for connections in self._since.values():
            connections.pop(connection, None)
        self._since[state][connection] = time.monotonic()

    def remove(self, connection: Counted) -> None:
        self._for_probes.discard(connection)
        for connections in self._since.values():
            connections.pop(connection, None)

    def for_probes_alone(self, connection: Counted) -> bool:
        """Whether `connection` came when all others were at work, and they still are too many."""
        return connection in self._for_probes and len(self) > self._most

    def _waiting(self, new: Counted) -> Counted | None:
        for connection in self._since[ConnectionState.IDLE]:
            if connection is not new and connection not in self._for_probes:
                return connection
        for connection, since in self._since[ConnectionState.RECEIVING].items():
            return connection if time.monotonic() - since >= _SILENT_SECONDS else None
        return None

    def _close(self, connection: Counted) -> None:
        self._closed += 1
        if time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:  # a flood must not fill the log
            log.warning("more than %d connections: %d closed to make room", self._most, self._closed)
            self._last_line = time.monotonic()
            self._closed = 0
        self.remove(connection)
        connection.make_room()
