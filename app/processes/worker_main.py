"""The worker process: makes one object and answers calls to it.

Run as `python -m app.processes.worker_main FD STACKS ROLE [MODULE ...]`.

FD is its socket to the service, STACKS the pipe of app.processes.stacks, ROLE a name for lists of processes. A spare
process imports each MODULE at once.
"""

import importlib
import logging
import resource
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.processes.channel import (
    MAX_ERROR_CHARS,
    MAX_RECORD_CHARS,
    MAX_RECORDS,
    Arrays,
    Channel,
    Limits,
    PendingResult,
    Values,
    read_request,
)
from app.processes.stacks import write_stacks
from bundle.bundle_errors import ExplainedError

_MAX_FILES = 250  # that one message can carry
_POLL_SECONDS = 0.0005  # between looks at whether a pending call has ended


def main() -> None:
    """Make the object, then answer calls until the service closes the connection."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # meant for the service, which ends its workers itself
    write_stacks(int(sys.argv[2]))
    connection = socket.socket(fileno=int(sys.argv[1]))
    modules = sys.argv[4:]
    for module in modules:
        with suppress(Exception):  # the object that needs it reports the error
            importlib.import_module(module)
    try:
        if modules:
            connection.send(b"\0")
        _, files, _, _ = socket.recv_fds(connection, 1, _MAX_FILES)
    except OSError:
        return  # the service has ended, and had no need of this process
    _serve(Channel(connection), files)


def _serve(channel: Channel, files: list[int]) -> None:
    records = _RecordBuffer(logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[records])
    made: list[Any] = []

    def make() -> tuple[Values, Arrays]:
        module, _, name = head["method"].partition(":")
        made.append(getattr(importlib.import_module(module), name)(*head["values"], *([files] if files else [])))
        _apply(Limits(**head["limits"]))
        return [], []

    with suppress(EOFError, OSError):  # the service has ended
        head, _ = channel.receive(read_request())
        _send(channel, records, make)
        if made:
            _Calls(channel, records, made[0]).serve()


class _Calls:
    """Answers calls of `target` in order. One whose work goes on elsewhere does not keep the next from beginning."""

    def __init__(self, channel: Channel, records: "_RecordBuffer", target: Any) -> None:
        self._channel = channel
        self._records = records
        self._target = target
        self._pending: deque[PendingResult] = deque()

    def serve(self) -> None:
        """Until the service has ended: EOFError or OSError."""
        while True:
            head, arrays = self._channel.receive(read_request())
            self._begin(head, arrays)
            del arrays
            self._answer_pending()

    def _begin(self, head: dict[str, Any], arrays: Arrays) -> None:
        try:
            result = getattr(self._target, head["method"])(*head["values"], *arrays)
        except Exception as err:
            result = _Failed(err)
        self._pending.append(_Finished(*result) if isinstance(result, tuple) else result)

    def _answer_pending(self) -> None:
        """Answer until nothing is pending, or another call has come."""
        while self._pending:
            if self._pending[0].ready():
                _send(self._channel, self._records, self._pending.popleft().result)
            elif self._channel.readable(_POLL_SECONDS):
                return


@dataclass(frozen=True)
class _Finished:
    values: Values
    arrays: Arrays

    def ready(self) -> bool:
        return True

    def result(self) -> tuple[Values, Arrays]:
        return self.values, self.arrays


@dataclass(frozen=True)
class _Failed:
    err: Exception

    def ready(self) -> bool:
        return True

    def result(self) -> tuple[Values, Arrays]:
        raise self.err


def _send(channel: Channel, records: "_RecordBuffer", result: Callable[[], tuple[Values, Arrays]]) -> None:
    """Send what `result` returns, or the error that it raises."""
    arrays: Arrays = []
    reply: dict[str, Any] = {}
    try:
        reply["values"], arrays = result()
    except ExplainedError as err:
        reply = {"error": type(err).__name__, "message": _shortened(str(err), MAX_ERROR_CHARS)}
    except Exception:
        reply = {"error": "", "message": _shortened(traceback.format_exc(), MAX_ERROR_CHARS)}
    channel.send(reply | {"log": records.take()}, arrays)


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
