"""HTTP by hand, on a socket."""

import socket

from tests.support.servers import Server


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def head(length: object = None, path: str = "/classify", *more: str) -> bytes:
    """The head of a POST of `length` bytes, or of unknown length, with `more` header fields."""
    lines = [f"POST {path} HTTP/1.1", "Host: service", "Content-Type: image/jpeg", *more]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
