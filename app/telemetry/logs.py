"""Logs: one event per line, as JSON for programs or in columns for a terminal; libraries' records look the same."""

import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import structlog

_MAX_WAITING_BYTES = 4 << 20
_MAX_WRITE_BYTES = 64 << 10
_GATHER_SECONDS = 0.01
_FLUSH_SECONDS = 2.0  # after which nothing more is expected to be written

log = logging.getLogger(__name__)


def configure(level: str, form: str, *, waits: bool = True, instance: int | None = None) -> None:
    """Log to standard error.

    Args:
        level: the lowest level that is logged.
        form: "json", "console", or "auto" for console on a terminal and else json.
        instance: the number that each line has as `instance`, if there are several instances.
        waits: whether logging waits while standard error is not read; if not, lines are dropped then.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        _add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
    ]
    if instance is not None:
        shared.append(partial(_add_instance, instance))
    renderer: list[structlog.typing.Processor] = (
        # structlog's own traceback shows local variables: keys and images.
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                sort_keys=False,  # a request's method, path and status come first
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = _WaitingHandler() if waits or sys.stderr is None else DroppingHandler(sys.stderr.fileno())
    # Not through the standard library's loggers, which render an event twice: each request logs one.
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda name: _LineLogger(name, handler.write_line),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # Its steps of starting and stopping; the service logs its own.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    # It logs errors in clients' forms, with their bytes; the answer tells the client.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def _add_logger_name(logger: Any, _: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record = event.get("_record")  # of the standard library's
    event["logger"] = logger.name if record is None else record.name
    return event


class _LineLogger:
    """Writes the lines that structlog has rendered."""

    def __init__(self, name: str, write_line: Callable[[str], None]) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = write_line


class _WaitingHandler(logging.StreamHandler[TextIO]):
    """Writes lines to standard error, and waits until it has taken them."""

    def write_line(self, line: str) -> None:
        with suppress(AttributeError, OSError, ValueError):  # standard error is not there, full or closed
            self.stream.write(line + self.terminator)
            self.flush()


def _add_instance(
    number: int, _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event["instance"] = number
    return event


class DroppingHandler(logging.Handler):
    """Writes lines to the file `descriptor` from its own thread, so that logging never waits for the reader.

    Beyond _MAX_WAITING_BYTES lines are dropped; their number is logged when there is room again. The thread gathers
    lines for a moment, so that many requests do not wake it each.
    """

    dropped = 0  # by all handlers of this process

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._unreported = 0  # dropped lines whose number is not logged yet
        # A daemon: a write may never return, and the end of the process must not wait for it.
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write_line(self.format(record))
        except Exception:
            self.handleError(record)

    def write_line(self, text: str) -> None:
        """Have the thread write this line, soon."""
        line = (text + "\n").encode(errors="backslashreplace")
        with self._changed:
            if self._waiting_bytes + len(line) > _MAX_WAITING_BYTES:
                self._drop(1)
                return
            self._lines.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all lines are written, or none has been written for some seconds."""
        waiting, deadline = self._waiting_bytes, time.monotonic() + _FLUSH_SECONDS
        while self._waiting_bytes and time.monotonic() < deadline:
            time.sleep(0.002)  # not on the condition: its lock is held if a signal came while a line was added
            if self._waiting_bytes < waiting:
                waiting, deadline = self._waiting_bytes, time.monotonic() + _FLUSH_SECONDS

    def _drop(self, lines: int) -> None:
        DroppingHandler.dropped += lines
        self._unreported += lines

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
            time.sleep(_GATHER_SECONDS)
            with self._changed:
                lines = [self._lines.popleft()]
                size = len(lines[0])
                while self._lines and size + len(self._lines[0]) <= _MAX_WRITE_BYTES:
                    lines.append(self._lines.popleft())
                    size += len(lines[-1])
            written = _write(self._descriptor, b"".join(lines))
            with self._changed:
                self._waiting_bytes -= size
                if written:
                    unreported, self._unreported = self._unreported, 0
                else:
                    self._drop(len(lines))
            if written and unreported:
                log.warning("%d lines of the log were dropped: standard error did not take them in time", unreported)


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of `data`, however long that takes. False if writing fails: the disk is full, the reader has gone."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # the process that made the descriptor set it to non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True
