"""The HTTP/1.1 server: listening sockets, connections, limits, shutdown.

Enters: bytes from sockets. Leaves: ASGI requests to `app.main`, and response bytes.
Runs in: the HTTP process.
"""
