"""Starting a worker process: the process, its socket and its pipe for stacks; spare processes, started ahead."""

import atexit
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass

_INHERITED_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")


@dataclass(frozen=True)
class StartedProcess:
    """A process, the socket to it, and the pipe to which it writes its stacks."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    stacks: int

    @property
    def ended(self) -> bool:
        return self.connection.fileno() < 0

    def end(self) -> None:
        """Again is a no-op."""
        self.process.kill()
        self.process.wait()
        if not self.ended:
            self.connection.close()
            os.close(self.stacks)


def start_spare(role: str, module: str, *more_modules: str, keep_environment: bool = False) -> None:
    """Start a process that already imports these modules. The next Worker whose factory is in `module` uses it."""
    with suppress(OSError):  # no room for a process: the Worker that needs one reports it
        process = spawn(role, [module, *more_modules], keep_environment)
        _spares.append((module, keep_environment, process))


_spares: list[tuple[str, bool, StartedProcess]] = []
_spares_lock = threading.Lock()


@atexit.register
def end_spares() -> None:
    """End the processes that no Worker has taken."""
    for _, _, started in _spares:
        started.end()  # it would end by itself, unless it hangs


def take_spare(module: str, keep_environment: bool) -> StartedProcess | None:
    with _spares_lock:
        for spare in _spares:
            if spare[:2] == (module, keep_environment):
                _spares.remove(spare)
                return spare[2]
    return None


def spawn(role: str, modules: list[str], keep_environment: bool) -> StartedProcess:
    environment = {
        name: value
        for name, value in os.environ.items()
        if (keep_environment and not name.startswith("CROSSVIT_")) or name in _INHERITED_VARIABLES
    }
    with ExitStack() as theirs, ExitStack() as undo:
        ours, connection = socket.socketpair()
        theirs.callback(connection.close)
        undo.callback(ours.close)
        stacks, written = os.pipe()
        theirs.callback(os.close, written)
        undo.callback(os.close, stacks)
        # -P: a folder named app where the service was started is not imported.
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "app.processes.worker_main",
                str(connection.fileno()),
                str(written),
                role,
                *modules,
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[connection.fileno(), written],
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # a Ctrl-C in the terminal is for the service
        )
        undo.pop_all()
    return StartedProcess(process, ours, stacks)
