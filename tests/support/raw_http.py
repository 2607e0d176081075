"""HTTP by hand, on a socket."""

import socket
from pathlib import Path

from tests.support.servers import Server
from tests.support.waiting import wait_until


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def head(length: object = None, path: str = "/classify", *more: str) -> bytes:
    """The head of a POST of `length` bytes, or of unknown length, with `more` header fields."""
    lines = [f"POST {path} HTTP/1.1", "Host: service", "Content-Type: image/jpeg", *more]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def wait_until_read(connection: socket.socket) -> None:
    """Return when the server has read all that was sent over the IPv4 `connection`, or has closed it."""
    wait_until(lambda: not _unread_bytes(connection), poll_seconds=0.002)


def _unread_bytes(connection: socket.socket) -> int:
    """The bytes that the system holds for the server, at either end."""
    try:
        client, server = connection.getsockname()[1], connection.getpeername()[1]
    except OSError:
        return 0  # it was reset
    unread = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        ports = [int(address.rpartition(":")[2], 16) for address in (local, remote)]
        to_send, received = (int(count, 16) for count in queues.split(":"))
        unread += to_send * (ports == [client, server]) + received * (ports == [server, client])
    return unread
