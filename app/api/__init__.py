"""The HTTP interface: routes, bodies, keys, error responses.

Enters: ASGI requests. Leaves: image bytes to `serving`, and ASGI responses.
Runs in: the HTTP process.
"""
