"""Logs: one event a line, as JSON for machines or in columns for a terminal. What libraries log looks the same."""

import logging
import os
import select
import sys
import threading
import time
from collections import deque

import structlog

_HELD_BYTES = 4 << 20  # of lines that wait to be written
_WRITE_BYTES = 64 << 10  # at once
_FLUSH_SECONDS = 2.0  # at the end, for standard error to take what waits

log = logging.getLogger(__name__)


def configure(level: str, form: str, *, waits: bool = True) -> None:
    """Log from `level` on to standard error; `form` is "json", "console", or "auto" for the one that fits.

    Unless it `waits`, nobody who logs is held up by a standard error that is not read: lines are dropped then.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
    ]
    renderer: list[structlog.typing.Processor] = (
        # The traceback that it prefers shows local variables: keys and images.
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler() if waits or sys.stderr is None else DroppingHandler(sys.stderr.fileno())
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # Complains of what clients send, with bytes of it; they are told in the answer.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class DroppingHandler(logging.Handler):
    """Writes lines to the file `descriptor` from a thread of its own, so that nobody who logs waits for who reads.

    Lines that find no room while nothing is read are dropped; how many they were is logged when there is room again.
    """

    dropped = 0  # by all handlers of this process

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._untold = 0  # lines that were dropped
        # Not to be waited for at the end of the process: a write may never return.
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if self._held + len(line) > _HELD_BYTES:
                self._drop(1)
                return
            self._lines.append(line)
            self._held += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is written, or nothing has been for some seconds."""
        held, deadline = self._held, time.monotonic() + _FLUSH_SECONDS
        while self._held and time.monotonic() < deadline:
            time.sleep(0.002)  # and not on the condition, whose lock is held if a signal has come while a line is added
            if self._held < held:
                held, deadline = self._held, time.monotonic() + _FLUSH_SECONDS

    def _drop(self, lines: int) -> None:
        DroppingHandler.dropped += lines
        self._untold += lines

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines = [self._lines.popleft()]
                size = len(lines[0])
                while self._lines and size + len(self._lines[0]) <= _WRITE_BYTES:
                    lines.append(self._lines.popleft())
                    size += len(lines[-1])
            written = _write(self._descriptor, b"".join(lines))
            with self._changed:
                self._held -= size
                if written:
                    untold, self._untold = self._untold, 0
                else:
                    self._drop(len(lines))
            if written and untold:
                log.warning("%d lines of the log were dropped: standard error did not take them in time", untold)


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of `data`, however long that takes. False if it cannot be: the disk is full, the reader gone."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever made the descriptor has set it so
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True
