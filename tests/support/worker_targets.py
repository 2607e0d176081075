"""Objects for worker processes to hold."""

import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import BadImage
from app.processes.channel import Arrays, Values


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
