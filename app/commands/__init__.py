"""Commands that need no server of their own: `crossvit classify`, `bulk`, `bench`, `evaluate` and others.

Enters: files or a URL. Leaves: tables, JSON or CSV on the terminal.
Runs in: the command's process, with the same decoder and engine processes as the service.
"""
