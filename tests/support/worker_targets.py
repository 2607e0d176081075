"""Objects for worker processes to hold."""

import ctypes
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from app.decoding.decoder_worker import Decoder
from app.errors import BadImage
from app.processes.channel import Arrays, Values

TARGET = "tests.support.worker_targets:Target"


class Target:
    """Does what a test asks it to."""

    def __init__(self, name: str) -> None:
        self.name = name

    def echo(self, value: Any, *arrays: Any) -> tuple[Values, Arrays]:
        return [self.name, value], list(arrays)

    def hang(self, seconds: float) -> tuple[Values, Arrays]:
        time.sleep(seconds)
        return [], []

    def crash(self) -> tuple[Values, Arrays]:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError

    def refuse(self) -> tuple[Values, Arrays]:
        raise BadImage("not this one")

    def fail(self) -> tuple[Values, Arrays]:
        raise ArithmeticError("by zero")

    def take(self, size: int) -> tuple[Values, Arrays]:
        return [], [np.ones(size, np.uint8)]

    def reach_out(self) -> tuple[Values, Arrays]:
        """Names what it can open outside its process."""
        reached = []
        for name, attempt in (("file", Path("/etc/hostname").read_bytes), ("socket", socket.socket)):
            try:
                attempt()
                reached.append(name)
            except OSError:
                pass
        return reached, []

    def environment(self) -> tuple[Values, Arrays]:
        return sorted(os.environ), []


class Reader:
    """Holds open files."""

    def __init__(self, files: list[int]) -> None:
        self.files = files

    def read(self) -> tuple[Values, Arrays]:
        return [os.pread(file, 100, 0).decode() for file in self.files], []


class Talker:
    def say(self, what: str) -> tuple[Values, Arrays]:
        logging.getLogger("talker").warning(what)
        return [], []

    def shout(self, what: str) -> tuple[Values, Arrays]:
        logging.getLogger("talker").critical(what)
        return [], []

    def fail(self, what: str) -> tuple[Values, Arrays]:
        raise ArithmeticError(what)

    def say_often(self, times: int) -> tuple[Values, Arrays]:
        for number in range(times):
            logging.getLogger("talker").warning("%d", number)
        return [], []


def unmakeable() -> Target:
    raise BadImage("cannot be made")


class Later:
    """Has results that are ready some time after their call has returned."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def later(self, value: Any, seconds: float) -> "Pending":
        self.begun.append(time.monotonic())
        return Pending(value, time.monotonic() + seconds)

    def beginnings(self) -> tuple[Values, Arrays]:
        return [*self.begun], []

    def fail(self) -> tuple[Values, Arrays]:
        raise ArithmeticError("by zero")


class Pending:
    def __init__(self, value: Any, at: float) -> None:
        self._value = value
        self._at = at

    def ready(self) -> bool:
        return time.monotonic() >= self._at

    def result(self) -> tuple[Values, Arrays]:
        assert self.ready()
        if self._value is None:
            raise BadImage("not this one")
        return [self._value], []


class Intruder(Decoder):
    """A decoder that an image has taken over."""

    def scribble(self, value: int) -> tuple[Values, Arrays]:
        """Write to all that it can."""
        self._memory.bytes[...] = value
        return [], []

    def cut_short(self) -> tuple[Values, Arrays]:
        """Names the open files whose size it can change, apart from standard output and error."""
        changed = []
        for file in range(3, 1000):
            with suppress(OSError):
                os.ftruncate(file, 0)
                changed.append(file)
        return changed, []

    def read_beyond(self) -> tuple[Values, Arrays]:
        """Map more than its memory has, and read there."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mremap.restype = ctypes.c_void_p
        size, may_move = self._memory.size, 1
        address = ctypes.c_void_p(self._memory.bytes.ctypes.data)
        self._memory.bytes = np.empty(0, np.uint8)
        moved = libc.mremap(address, ctypes.c_size_t(size), ctypes.c_size_t(2 * size), ctypes.c_int(may_move))
        return [ctypes.string_at(moved + size, 1)[0]], []
