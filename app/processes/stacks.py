"""Where a worker process is when it crashes or hangs: its Python stacks, which cross in a pipe.

They are written by a signal handler in C, so also while a library holds the interpreter's lock.
"""

import faulthandler
import os
import select
import signal

STACKS_SIGNAL = signal.SIGUSR1  # tells a worker to write them
_WAIT_SECONDS = 0.5  # for the first of them
_PAUSE_SECONDS = 0.05  # after which no more are expected
_MOST_BYTES = 1 << 16  # what a pipe holds


def write_stacks(file: int) -> None:
    """Let this process write its stacks to `file`, a pipe, at STACKS_SIGNAL and when it crashes."""
    os.set_blocking(file, False)  # a worker never waits for a reader
    faulthandler.enable(file)
    faulthandler.register(STACKS_SIGNAL, file)


def read_stacks(file: int, *, wait: bool) -> str:
    """What a process has written to the pipe `file`; `wait` for it for a moment."""
    content = b""
    seconds = _WAIT_SECONDS if wait else 0.0
    while len(content) < _MOST_BYTES and select.select([file], [], [], seconds)[0]:
        if not (chunk := os.read(file, _MOST_BYTES)):
            break
        content += chunk
        seconds = _PAUSE_SECONDS if wait else 0.0
    return content.decode(errors="replace").strip()
