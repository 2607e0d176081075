"""A process that holds one object and answers calls to its methods. It can be capped, and is killed when it hangs.

What crosses between the processes is JSON and raw arrays, nothing that runs, and what comes back is bounded and checked
before it is believed: a decoder that an image has taken over can give wrong pixels, and no more.
"""

import atexit
import importlib
import json
import logging
import math
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
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bundle.bundle_errors import ExplainedError

Values = list[Any]  # what JSON has
Arrays = list[NDArray[Any]]

log = logging.getLogger(__name__)

_LENGTH = struct.Struct("!I")
_LONGEST_REQUEST = 16 << 20  # the JSON of a call
_MOST_RECORDS = 50  # of the log, with one answer,
_LONGEST_RECORD = 2_000  # characters each; what is longer is cut in its middle
_LONGEST_MESSAGE = 16_000  # characters of an error
_IMPORT_SECONDS = 30.0  # that a spare may take
_END_SECONDS = 1.0  # that a process may take to end after its connection
_MOST_FILES = 250  # that one message can carry
_MOST_PIECES = 100  # in one call
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")


class WorkerDied(Exception):
    """The process ended while it was called, or before, or sent what is no answer; `args[0]` says which."""


class WorkerHung(Exception):
    """The call took longer than it may; the process has been killed."""


class WorkerFailed(Exception):
    """The method raised something that is no ExplainedError; `args[0]` is the traceback."""


@dataclass(frozen=True)
class Limits:
    """What a worker may use, once its object stands. A sealed one opens no file and no socket, and writes none."""

    memory_bytes: int | None = None
    sealed: bool = False


def _anything(_values: Values, _arrays: Arrays) -> None:
    """The check of an answer that is trusted."""


@dataclass(frozen=True)
class Reply:
    """What the answer to a call may be. An answer beyond that costs the worker its life.

    `head_bytes` bounds its JSON, `array_bytes` all its arrays together, `raises` are the service errors that the method
    may raise, or None for any. `check` raises a ValueError, LookupError or TypeError for values or arrays that are not
    what the method gives. The defaults are for workers that run nothing from outside.
    """

    head_bytes: int = 16 << 20
    array_bytes: int = 1 << 32
    raises: tuple[type[ExplainedError], ...] | None = None
    check: Callable[[Values, Arrays], None] = _anything

    def error(self, name: str) -> type[ExplainedError]:
        """The class of a service error; ValueError if the method raises none of that name."""
        kind = _kinds(ExplainedError).get(name)
        if kind is None:
            raise ValueError("an error that the service does not have")
        if self.raises is not None and kind not in self.raises:
            raise ValueError(f"{name}, which this method does not raise")
        return kind


def _kinds(base: type[ExplainedError]) -> dict[str, type[ExplainedError]]:
    """The subclasses of `base` that this process knows, by their names."""
    found: dict[str, type[ExplainedError]] = {}
    for kind in base.__subclasses__():
        found |= {kind.__name__: kind} | _kinds(kind)
    return found


_TRUSTED = Reply()
NOTHING = Reply(head_bytes=1 << 20, array_bytes=0)  # but errors, and what is logged


class _Array(BaseModel):
    """A description of an array that follows the head."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: Annotated[str, Field(pattern=r"^[|<>][uif][1248]$")]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 40)]], Field(max_length=8)]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class _Head(BaseModel):
    """The JSON of an answer: `values`, or an `error`, which is the name of a service error or empty."""

    model_config = ConfigDict(strict=True, extra="forbid")

    arrays: Annotated[list[_Array], Field(max_length=10_000)]
    log: Annotated[
        list[
            tuple[Annotated[int, Field(ge=0, le=logging.CRITICAL)], Annotated[str, Field(max_length=_LONGEST_RECORD)]]
        ],
        Field(max_length=_MOST_RECORDS),
    ]
    values: list[Any] | None = None
    error: Annotated[str, Field(max_length=100)] | None = None
    message: Annotated[str, Field(max_length=_LONGEST_MESSAGE)] = ""


class Worker:
    """Starts a process that holds `factory(*values)`, `factory` being "module:name". Blocking; one call at a time.

    Open `files` are given to the process; the object is told the numbers that they have there, last of its arguments,
    if there are any. Raises as `call` does if the object cannot be made within `seconds`. `on_spawn` is told of the
    worker before that, so that somebody else can kill it meanwhile.
    """

    _sealed = False

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
        self._sealed = limits is not None and limits.sealed
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
            self.call(factory, list(values), [], seconds=seconds, reply=NOTHING, limits=asdict(limits or Limits()))
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fileno(self) -> int:
        """Readable while the worker is not called if it has ended, or sends what nobody asked for."""
        return self._socket.fileno()

    def call(
        self,
        method: str,
        values: Values,
        arrays: Arrays,
        *,
        seconds: float,
        reply: Reply = _TRUSTED,
        **more: object,
    ) -> tuple[Values, Arrays]:
        """What `method(*values, *arrays)` returns, values and arrays, which is as `reply` says.

        An ExplainedError that it raises is raised here. Raises WorkerDied, WorkerHung or WorkerFailed otherwise; after the
        first two the worker is of no more use.
        """
        channel = _Channel(self._socket, time.monotonic() + seconds)
        try:
            channel.send({"method": method, "values": values} | more, arrays)
            head, results = channel.answer(reply)
            kind = reply.error(head.error) if head.error else None
            if head.values is not None:
                reply.check(head.values, results)
        except TimeoutError as err:
            self.kill()
            raise WorkerHung(f"no answer within {seconds:g} s") from err
        except (OSError, EOFError) as err:
            raise WorkerDied(self.how_it_ended()) from err
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, MemoryError) as err:
            self.kill()
            raise WorkerDied("it sent what is no answer, and was ended") from err
        for level, message in head.log:
            level = min(level, logging.WARNING) if self._sealed else level
            log.log(level, "%s: %s", self._role, self._shown(message))
        if kind is not None:
            raise kind(self._shown(head.message))
        if head.values is None:
            raise WorkerFailed(self._shown(head.message))
        return head.values, results

    def _shown(self, text: str) -> str:
        """What it says, for the log. What a sealed one says may be an image's, and begins no line."""
        return _printable(text, kept="" if self._sealed else "\n")

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
            raise WorkerDied(self.how_it_ended()) from err

    def how_it_ended(self) -> str:
        """What became of the process, whose connection has; if it runs all the same it is ended."""
        with suppress(subprocess.TimeoutExpired):  # the connection goes a moment before the process
            self._process.wait(_END_SECONDS)
        ended = self._process.returncode is not None
        self.kill()
        return describe_end(self._process.returncode) if ended else "it did not keep to what was asked, and was ended"


def describe_end(code: int) -> str:
    """How a process ended, by its return code as subprocess has it."""
    if code >= 0:
        return f"ended with status {code}"
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(-code, f"signal {-code}")
    if name == "SIGKILL":  # the service's own are not described
        return (
            "ended by SIGKILL, as the kernel does when memory is short (dmesg, or memory.events of the control group)"
        )
    return f"ended by {name}"


def spare(role: str, module: str, *more: str, keep_environment: bool = False) -> None:
    """Start a process that imports these modules meanwhile. The next Worker whose factory is in `module` has it."""
    with suppress(OSError):  # no room for a process: who needs one will say so
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
    with theirs, ExitStack() as undo:
        undo.callback(ours.close)
        # -P: a folder that happens to be called app where the service was started is not ours.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app.processes.worker", str(theirs.fileno()), role, *modules],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C in the terminal is for the service
        )
        undo.pop_all()
    return process, ours


def _printable(text: str, kept: str) -> str:
    """`text` without what would control a terminal; of its line ends and the like, those in `kept` stay."""
    return "".join(char if char.isprintable() or char in kept else ascii(char)[1:-1] for char in text)


class _Channel:
    """Messages over a socket: the length of a JSON head, the head, and the arrays that the head describes."""

    def __init__(self, connection: socket.socket, deadline: float | None = None) -> None:
        self._socket = connection
        self._deadline = deadline

    def send(self, head: dict[str, Any], arrays: Arrays) -> None:
        shapes = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]
        encoded = json.dumps(head | {"arrays": shapes}, ensure_ascii=False).encode("utf-8", "replace")
        pieces = [memoryview(_LENGTH.pack(len(encoded)) + encoded)]
        pieces += [np.ascontiguousarray(array).data.cast("B") for array in filter(np.size, arrays)]
        while pieces:  # all at once, so that the other side wakes once
            self._in_time()
            sent = self._socket.sendmsg(pieces[:_MOST_PIECES])
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if sent:
                pieces[0] = pieces[0][sent:]

    def answer(self, reply: Reply) -> tuple[_Head, Arrays]:
        """What a worker answers. EOFError where it has ended, ValueError and its like beyond `reply`."""
        head = _Head.model_validate_json(self._head(reply.head_bytes))
        if (head.values is None) == (head.error is None):
            raise ValueError("neither values nor an error, or both")
        if sum(array.bytes for array in head.arrays) > reply.array_bytes:
            raise ValueError("more arrays than there may be")
        return head, [self._array(array) for array in head.arrays]

    def request(self) -> tuple[dict[str, Any], Arrays]:
        """What the service asks, which is trusted. EOFError where it has ended."""
        head = json.loads(self._head(_LONGEST_REQUEST))
        return head, [self._array(_Array(**array)) for array in head.pop("arrays")]

    def _head(self, most: int) -> bytes:
        (length,) = _LENGTH.unpack(self._exactly(np.empty(_LENGTH.size, np.uint8)).tobytes())
        if length > most:
            raise ValueError("the head is too long")
        return self._exactly(np.empty(length, np.uint8)).tobytes()

    def _array(self, described: _Array) -> NDArray[Any]:
        return self._exactly(np.empty(described.shape, np.dtype(described.dtype)))

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
    records = _Records(logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[records])
    target: Any = None
    while True:
        try:
            head, arrays = channel.request()
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
        except ExplainedError as err:
            reply = {"error": type(err).__name__, "message": _cut(str(err), _LONGEST_MESSAGE)}
        except Exception:
            reply = {"error": "", "message": _cut(traceback.format_exc(), _LONGEST_MESSAGE)}
        del arrays
        channel.send(reply | {"log": records.taken()}, results)
        if target is None:
            return


class _Records(logging.Handler):
    """Keeps what is logged until it is sent with an answer: the first records, each in as many characters as it may."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(logging.Formatter("%(message)s"))
        self._kept: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._kept) < _MOST_RECORDS:
            level = max(0, min(record.levelno, logging.CRITICAL))
            self._kept.append((level, _cut(self.format(record), _LONGEST_RECORD)))

    def taken(self) -> list[tuple[int, str]]:
        taken, self._kept = self._kept, []
        return taken


def _cut(text: str, most: int) -> str:
    """`text`, without its middle if it is longer than `most`: a traceback's end says the most."""
    mark = " … "
    half = (most - len(mark)) // 2
    return text if len(text) <= most else text[:half] + mark + text[-half:]


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
