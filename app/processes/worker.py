"""The service's side of a worker process, which holds one object, answers calls to it, and is killed when it hangs."""

import logging
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict

from app.processes.channel import (
    EMPTY_REPLY,
    INVALID_ANSWER,
    Answer,
    Arrays,
    Channel,
    Limits,
    Reply,
    Values,
    read_answer,
)
from app.processes.process_start import spawn, take_spare
from app.processes.stacks import STACKS_SIGNAL, read_stacks

log = logging.getLogger(__name__)

TRUSTED_REPLY = Reply()
SENT_INVALID_ANSWER = "it sent an invalid answer, and was killed"

_IMPORT_SECONDS = 30.0  # for the imports of a spare process
_END_SECONDS = 1.0  # for a process to end after its connection


class WorkerDied(Exception):
    """The process ended before or during the call, or sent an invalid answer; `args[0]` says which."""


class WorkerHung(Exception):
    """The call took longer than it may; the process has been killed."""


class WorkerFailed(Exception):
    """The method raised an error other than an ExplainedError; `args[0]` is the traceback."""


class Worker:
    """Starts a process that holds `factory(*values)`. Blocking; one call at a time.

    Raises as `call` does if the object cannot be made within `seconds`.

    Args:
        role: a name for log lines and lists of processes.
        factory: "module:name" of what makes the object.
        values: its arguments, JSON values.
        seconds: how long making the object may take.
        limits: apply once the object is made.
        files: open files that the process gets; the numbers that they have there are the object's last argument.
        keep_environment: pass on the environment, but for the service's settings, and not only what Python needs.
        on_spawn: is given the worker before the object is made, so that another thread can kill it meanwhile.
    """

    _sealed = False

    def __init__(
        self,
        role: str,
        factory: str,
        values: Values | None = None,
        *,
        seconds: float,
        limits: Limits | None = None,
        files: Sequence[int] = (),
        keep_environment: bool = False,
        on_spawn: Callable[["Worker"], None] = lambda _: None,
    ) -> None:
        self._role = role
        self._sealed = limits is not None and limits.sealed
        spare = take_spare(factory.partition(":")[0], keep_environment)
        self._started = spare or spawn(role, [], keep_environment)
        self._closing = threading.Lock()
        try:
            on_spawn(self)
            if spare is not None and not self._has_imported(min(seconds, _IMPORT_SECONDS)):
                self.kill()  # an import ends it or hangs; the next process imports nothing before it has to
                self._started = spawn(role, [], keep_environment)
                on_spawn(self)
            self._send_files(files, seconds)
            self.call(factory, values or [], [], seconds=seconds, reply=EMPTY_REPLY, limits=asdict(limits or Limits()))
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._started.process.pid

    @property
    def alive(self) -> bool:
        return self._started.process.poll() is None

    @property
    def connection(self) -> socket.socket:
        """The socket. Between calls it becomes readable if the worker ends, or sends data without being asked."""
        return self._started.connection

    def call(
        self,
        method: str,
        values: Values,
        arrays: Arrays,
        *,
        seconds: float,
        reply: Reply = TRUSTED_REPLY,
        **head: object,
    ) -> tuple[Values, Arrays]:
        """The values and arrays that `method(*values, *arrays)` returns, within the bounds of `reply`.

        An ExplainedError of the method is raised here. Raises WorkerDied, WorkerHung or WorkerFailed otherwise; after
        the first two the worker cannot be used any more. `head` is added to the request.
        """
        channel = Channel(self.connection, time.monotonic() + seconds)
        try:
            channel.send({"method": method, "values": values} | head, arrays)
            answer = channel.receive(read_answer(reply))
        except TimeoutError as err:
            self.kill_hung()
            raise WorkerHung(f"no answer within {seconds:g} s") from err
        except (OSError, EOFError) as err:
            raise WorkerDied(self.describe_end()) from err
        except INVALID_ANSWER as err:
            self.kill()
            raise WorkerDied(SENT_INVALID_ANSWER) from err
        return self.result(answer)

    def result(self, answer: Answer) -> tuple[Values, Arrays]:
        """The values and arrays of `answer`; raises its error as `call` does. Its log records are logged."""
        for level, message in answer.head.log:
            level = min(level, logging.WARNING) if self._sealed else level
            log.log(level, "%s: %s", self._role, self._printable(message))
        if answer.error_class is not None:
            raise answer.error_class(self._printable(answer.head.message))
        if answer.head.values is None:
            raise WorkerFailed(self._printable(answer.head.message))
        return answer.head.values, answer.arrays

    def kill(self) -> None:
        """End the process, whatever it does. A second call does nothing."""
        with self._closing:
            self._started.end()

    def kill_hung(self) -> None:
        """End the process, which does not answer, and log where it was."""
        self._started.process.send_signal(STACKS_SIGNAL)
        self._log_stacks("hangs", wait=True)
        self.kill()

    def describe_end(self) -> str:
        """How the process ended, once its connection has; a process that still runs is killed."""
        with suppress(subprocess.TimeoutExpired):  # the connection ends a moment before the process
            self._started.process.wait(_END_SECONDS)
        code = self._started.process.returncode
        if code is not None and code < 0:
            self._log_stacks("crashed", wait=False)
        self.kill()
        if code is None:
            return "it sent data unasked or closed its connection, and was killed"
        return describe_exit(code)

    def _log_stacks(self, what: str, *, wait: bool) -> None:
        with self._closing:
            stacks = "" if self._started.ended else read_stacks(self._started.stacks, wait=wait)
        if stacks:
            log.warning("%s %s here: %s", self._role, what, self._printable(stacks))

    def _printable(self, text: str) -> str:
        """`text` for the log. Text of a sealed worker may come from an image, and must not begin a line."""
        return _escaped(text, keep="" if self._sealed else "\n")

    def _has_imported(self, seconds: float) -> bool:
        self.connection.settimeout(seconds)
        try:
            return bool(self.connection.recv(1))
        except OSError:
            return False

    def _send_files(self, files: Sequence[int], seconds: float) -> None:
        self.connection.settimeout(seconds)
        try:
            socket.send_fds(self.connection, [b"\0"], files)
        except OSError as err:
            raise WorkerDied(self.describe_end()) from err


def describe_exit(code: int) -> str:
    """How a process ended, by its return code as subprocess gives it."""
    if code >= 0:
        return f"ended with status {code}"
    names = {number.value: number.name for number in signal.Signals}
    name = names.get(-code, f"signal {-code}")
    if name == "SIGKILL":  # a SIGKILL from the service is not described
        return (
            "ended by SIGKILL, as the kernel does when memory is short (dmesg, or memory.events of the control group)"
        )
    return f"ended by {name}"


def _escaped(text: str, keep: str) -> str:
    """`text` with control characters escaped, but for those in `keep`: nothing in it controls a terminal."""
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)
