"""A process that holds one object and answers calls to its methods. It can be capped, and is killed when it hangs.

What crosses between the processes is JSON and raw arrays, nothing that runs: a decoder that an image has taken over can
give wrong pixels, and no more.
"""

import atexit
import importlib
import json
import logging
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import errors

Values = list[Any]  # what JSON has
Arrays = list[NDArray[Any]]

log = logging.getLogger(__name__)

_LENGTH = struct.Struct("!I")
_LONGEST_HEAD = 16 << 20
_LARGEST_ARRAY = 1 << 32
_IMPORT_SECONDS = 30.0  # that a spare may take
_MOST_FILES = 250  # that one message can carry
_MOST_PIECES = 100  # in one call
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")


class WorkerDied(Exception):
    """The process ended while it was called, or before; `args[0]` says how."""


class WorkerHung(Exception):
    """The call took longer than it may; the process has been killed."""


class WorkerFailed(Exception):
    """The method raised something that is no ServiceError; `args[0]` is the traceback."""


@dataclass(frozen=True)
class Limits:
    """What a worker may use, once its object stands. A sealed one opens no file and no socket, and writes none."""

    memory_bytes: int | None = None
    sealed: bool = False


class Worker:
    """Starts a process that holds `factory(*values)`, `factory` being "module:name". Blocking; one call at a time.

    Open `files` are given to the process; the object is told the numbers that they have there, last of its arguments,
    if there are any. Raises as `call` does if the object cannot be made within `seconds`. `on_spawn` is told of the
    worker before that, so that somebody else can kill it meanwhile.
    """

    def __init__(
        self,
        role: str,
        factory: str,
        values: Sequence[Any] = (),
        *,
        seconds: float,
        limits: Limits | None = None,
        files: Sequence[int] = (),
        keep_environment: bool = False,
        on_spawn: Callable[["Worker"], None] = lambda _: None,
    ) -> None:
        self._role = role
        waiting = _taken(factory.partition(":")[0], keep_environment)
        self._process, self._socket = waiting or _spawn(role, [], keep_environment)
        self._closing = threading.Lock()
        try:
            on_spawn(self)
            if waiting is not None and not self._has_imported(min(seconds, _IMPORT_SECONDS)):
                self.kill()  # what it imports ends it, or never ends; another one imports nothing before it has to
                self._process, self._socket = _spawn(role, [], keep_environment)
                on_spawn(self)
            self._give(files, seconds)
            self.call(factory, list(values), [], seconds=seconds, limits=asdict(limits or Limits()))
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(
        self, method: str, values: Values, arrays: Arrays, *, seconds: float, **more: object
    ) -> tuple[Values, Arrays]:
        """What `method(*values, *arrays)` returns: values and arrays.

        A ServiceError that it raises is raised here. Raises WorkerDied, WorkerHung or WorkerFailed otherwise; after the
        first two the worker is of no more use.
        """
        try:
            channel = _Channel(self._socket, time.monotonic() + seconds)
            channel.send({"method": method, "values": values} | more, arrays)
            head, results = channel.receive()
        except TimeoutError as err:
            self.kill()
            raise WorkerHung(f"no answer within {seconds:g} s") from err
        except (OSError, EOFError, ValueError, LookupError, TypeError) as err:
            raise WorkerDied(self._how_it_ended()) from err
        for level, message in head.get("log", []):
            log.log(level, "%s: %s", self._role, message)
        if "error" in head:
            kind = getattr(errors, str(head["error"]), None)
            if isinstance(kind, type) and issubclass(kind, errors.ServiceError):
                raise kind(str(head["message"]))
            raise WorkerFailed(str(head["message"]))
        return head["values"], results

    def kill(self) -> None:
        """End the process, whatever it does; again is a no-op."""
        with self._closing:
            self._process.kill()
            self._process.wait()
            self._socket.close()

    def _has_imported(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            return bool(self._socket.recv(1))
        except OSError:
            return False

    def _give(self, files: Sequence[int], seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            socket.send_fds(self._socket, [b"\0"], files)
        except OSError as err:
            raise WorkerDied(self._how_it_ended()) from err

    def _how_it_ended(self) -> str:
        self.kill()
        code = self._process.returncode
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def spare(role: str, module: str, *more: str, keep_environment: bool = False) -> None:
    """Start a process that imports these modules meanwhile. The next Worker whose factory is in `module` has it."""
    _spares.append((module, keep_environment, _spawn(role, [module, *more], keep_environment)))


_Process = tuple[subprocess.Popen[bytes], socket.socket]
_spares: list[tuple[str, bool, _Process]] = []
_choosing = threading.Lock()


@atexit.register
def end_spares() -> None:
    """End the processes that no Worker has taken."""
    for _, _, (process, _) in _spares:
        process.kill()  # it would find out by itself, but for one that hangs
        process.wait()


def _taken(module: str, keep_environment: bool) -> _Process | None:
    with _choosing:
        for found in _spares:
            if found[:2] == (module, keep_environment):
                _spares.remove(found)
                return found[2]
    return None


def _spawn(role: str, modules: list[str], keep_environment: bool) -> _Process:
    ours, theirs = socket.socketpair()
    environment = {
        name: value
        for name, value in os.environ.items()
        if (keep_environment and not name.startswith("CROSSVIT_")) or name in _INHERITED
    }
    with theirs:
        # -P: a folder that happens to be called app where the service was started is not ours.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app.worker", str(theirs.fileno()), role, *modules],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C in the terminal is for the service
        )
    return process, ours


class _Channel:
    """Messages over a socket: the length of a JSON head, the head, and the arrays that the head describes."""

    def __init__(self, connection: socket.socket, deadline: float | None = None) -> None:
        self._socket = connection
        self._deadline = deadline

    def send(self, head: dict[str, Any], arrays: Arrays) -> None:
        shapes = [[array.dtype.str, list(array.shape)] for array in arrays]
        encoded = json.dumps(head | {"arrays": shapes}).encode()
        pieces = [memoryview(_LENGTH.pack(len(encoded)) + encoded)]
        pieces += [np.ascontiguousarray(array).data.cast("B") for array in filter(np.size, arrays)]
        while pieces:  # all at once, so that the other side wakes once
            self._in_time()
            sent = self._socket.sendmsg(pieces[:_MOST_PIECES])
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if sent:
                pieces[0] = pieces[0][sent:]

    def receive(self) -> tuple[dict[str, Any], Arrays]:
        """EOFError where the other side has ended, ValueError and its like for what is no message."""
        (length,) = _LENGTH.unpack(self._exactly(np.empty(_LENGTH.size, np.uint8)).tobytes())
        if length > _LONGEST_HEAD:
            raise ValueError("the head is too long")
        head = json.loads(self._exactly(np.empty(length, np.uint8)).tobytes())
        arrays = []
        for kind, shape in head.pop("arrays"):
            dtype = np.dtype(kind)
            if dtype.kind not in "uif" or np.prod(shape, dtype=float) * dtype.itemsize > _LARGEST_ARRAY:
                raise ValueError("not an array that is sent here")
            arrays.append(self._exactly(np.empty(shape, dtype)))
        return head, arrays

    def _exactly(self, buffer: NDArray[Any]) -> NDArray[Any]:
        if not buffer.size:
            return buffer
        view = buffer.reshape(-1).data.cast("B")
        while view:
            self._in_time()
            received = self._socket.recv_into(view)
            if not received:
                raise EOFError
            view = view[received:]
        return buffer

    def _in_time(self) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)


def main() -> None:
    """The worker's side: make the object, then answer until the service hangs up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # meant for the service, which ends its workers itself
    connection = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[3:]:
        with suppress(Exception):  # who needs it will say so
            importlib.import_module(module)
    try:
        if sys.argv[3:]:
            connection.send(b"\0")
        _, files, _, _ = socket.recv_fds(connection, 1, _MOST_FILES)
    except OSError:
        return  # the service has ended, and had no need of this process
    channel = _Channel(connection)
    records: list[tuple[int, str]] = []
    handler = logging.Handler(logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.emit = lambda record: records.append((record.levelno, handler.format(record)))  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    target: Any = None
    while True:
        try:
            head, arrays = channel.receive()
        except (EOFError, OSError):
            return
        reply: dict[str, Any] = {}
        results: Arrays = []
        try:
            if target is None:
                module, _, name = head["method"].partition(":")
                target = getattr(importlib.import_module(module), name)(*head["values"], *([files] if files else []))
                _cap(Limits(**head["limits"]))
                reply = {"values": []}
            else:
                values, results = getattr(target, head["method"])(*head["values"], *arrays)
                reply = {"values": values}
        except errors.ServiceError as err:
            reply = {"error": type(err).__name__, "message": str(err)}
        except Exception:
            reply = {"error": "", "message": traceback.format_exc()}
        del arrays
        channel.send(reply | {"log": records}, results)
        records.clear()
        if target is None:
            return


def _cap(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = Path("/proc/self/statm")
    if limits.memory_bytes is not None and memory.exists():
        # Address space is what Linux can cap; what this process has mapped so far comes on top.
        mapped = int(memory.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + limits.memory_bytes,) * 2)
    if limits.sealed:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # those that are open stay so
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # no process more, but for root


if __name__ == "__main__":
    main()
