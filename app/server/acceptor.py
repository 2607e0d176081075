"""Accepts connections from a listening socket, also from one that several processes share."""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0  # after an error, such as too many open files


class Acceptor:
    """Accepts one connection in each turn of the event loop, and makes a protocol for it, after `resume`.

    The servers of asyncio and uvloop accept until no connection waits. Of instances that share the socket, the one that
    wakes first would take a whole burst of connections; these are kept, so that it would stay busier than the others.
    """

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make_protocol = make_protocol
        self._opening: set[asyncio.Task[object]] = set()
        self._pausing: asyncio.TimerHandle | None = None
        listener.setblocking(False)

    def resume(self) -> None:
        """Accept connections from now on."""
        self.pause()
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def pause(self) -> None:
        """Accept no more for now. The socket stays open."""
        if self._pausing is not None:
            self._pausing.cancel()
        self._loop.remove_reader(self._listener.fileno())

    async def wait_opened(self) -> None:
        """Wait until every accepted connection has its protocol."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another instance has taken it, or the client has gone
        except OSError as err:
            log.error("no connection can be accepted for %g s: %s", _PAUSE_SECONDS, err)
            self.pause()
            self._pausing = self._loop.call_later(_PAUSE_SECONDS, self.resume)
            return
        connection.setblocking(False)
        opening = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
