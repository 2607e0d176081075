"""The worker process: makes one object and answers calls to it.

Run as `python -m app.processes.worker_main FD ROLE [MODULE ...]`.

FD is its socket to the service, ROLE a name for lists of processes. A spare process imports each MODULE at once.
"""

import importlib
import logging
import resource
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.processes.channel import MAX_ERROR_CHARS, MAX_RECORD_CHARS, MAX_RECORDS, Arrays, Channel, Limits, read_request
from bundle.bundle_errors import ExplainedError

_MAX_FILES = 250  # that one message can carry


def main() -> None:
    """Make the object, then answer calls until the service closes the connection."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # meant for the service, which ends its workers itself
    connection = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[3:]:
        with suppress(Exception):  # the object that needs it reports the error
            importlib.import_module(module)
    try:
        if sys.argv[3:]:
            connection.send(b"\0")
        _, files, _, _ = socket.recv_fds(connection, 1, _MAX_FILES)
    except OSError:
        return  # the service has ended, and had no need of this process
    _serve(Channel(connection), files)


def _serve(channel: Channel, files: list[int]) -> None:
    records = _RecordBuffer(logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[records])
    target: Any = None
    while True:
        try:
            head, arrays = channel.receive(read_request())
        except (EOFError, OSError):
            return
        reply: dict[str, Any] = {}
        results: Arrays = []
        try:
            if target is None:
                module, _, name = head["method"].partition(":")
                target = getattr(importlib.import_module(module), name)(*head["values"], *([files] if files else []))
                _apply(Limits(**head["limits"]))
                reply = {"values": []}
            else:
                values, results = getattr(target, head["method"])(*head["values"], *arrays)
                reply = {"values": values}
        except ExplainedError as err:
            reply = {"error": type(err).__name__, "message": _shortened(str(err), MAX_ERROR_CHARS)}
        except Exception:
            reply = {"error": "", "message": _shortened(traceback.format_exc(), MAX_ERROR_CHARS)}
        del arrays
        channel.send(reply | {"log": records.take()}, results)
        if target is None:
            return


class _RecordBuffer(logging.Handler):
    """Keeps log records until the next answer carries them: the first MAX_RECORDS, each within MAX_RECORD_CHARS."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(logging.Formatter("%(message)s"))
        self._records: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._records) < MAX_RECORDS:
            level = max(0, min(record.levelno, logging.CRITICAL))
            self._records.append((level, _shortened(self.format(record), MAX_RECORD_CHARS)))

    def take(self) -> list[tuple[int, str]]:
        records, self._records = self._records, []
        return records


def _shortened(text: str, max_chars: int) -> str:
    """`text`, without its middle if it is longer than `max_chars`: the end of a traceback says the most."""
    mark = " … "
    half = (max_chars - len(mark)) // 2
    return text if len(text) <= max_chars else text[:half] + mark + text[-half:]


def _apply(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = Path("/proc/self/statm")
    if limits.memory_bytes is not None and memory.exists():
        # Linux can cap address space only; what this process has mapped so far is added to the limit.
        mapped = int(memory.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + limits.memory_bytes,) * 2)
    if limits.sealed:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # open files stay open
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # no further process, except for root


if __name__ == "__main__":
    main()
