"""Servers in processes of their own: started, awaited, paused until their turn, and ended with all their workers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.processes import cpu_seconds, family, is_orphan
from tests.support.waiting import wait_until

START_SECONDS = 180
_LOAD_LIMIT = ("--load-seconds", "150")  # so that an engine that hangs says where in the log of the test
STOP_SECONDS = 30
QUIET_CORES = 0.2  # a process that polls for work always uses some
QUIET_READINGS = 3  # in succession: a process that waits for a busy core seems quiet too


class ServerEnded(Exception):
    """The server's process ended before it was ready; the message has its log, where there is one."""


@dataclass
class Server:
    """A running server; `log` is the file of its output, None if that goes to this process's own output."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log_text(self) -> str:
        """What it has printed so far."""
        assert self.log is not None, "its output goes to this process's own"
        return self.log.read_text()

    def log_lines(self) -> list[str]:
        """The whole lines of it: the last one may be half written."""
        return self.log_text().rpartition("\n")[0].splitlines()

    def wait_until_ready(
        self, seconds: float = START_SECONDS, path: str = "/readyz", headers: Mapping[str, str] | None = None
    ) -> None:
        """Return when `path` answers 200. Raises ServerEnded and TimeoutError."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise ServerEnded(f"ended with status {self.process.returncode} before it was ready{self._said()}")
            try:
                return client.get(f"{self.url}{path}").status_code == 200
            except httpx.TransportError:
                return False  # not listening yet

        with httpx.Client(headers=headers) as client:
            try:
                wait_until(ready, seconds, poll_seconds=0.05)
            except TimeoutError:
                raise TimeoutError(f"{self.url}{path} is not ready after {seconds:g} s{self._said()}") from None

    def wait_until_alive(self) -> None:
        """Return when it answers; it may go on loading."""
        self.wait_until_ready(20, "/livez")

    def pause(self) -> None:
        """Stop all its processes where they are: some servers poll while they have nothing to do."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run for the block, then finish its work, then pause again."""
        self.resume()
        try:
            yield
        finally:
            self.wait_until_quiet()
            self.pause()

    def wait_until_quiet(self, seconds: float = 60) -> bool:
        """Return when it no longer works on requests of clients that have left; whether that was within `seconds`."""
        readings: deque[bool] = deque(maxlen=QUIET_READINGS)

        def quiet() -> bool:
            before = cpu_seconds(self.pid)
            time.sleep(0.2)
            readings.append(cpu_seconds(self.pid) - before < 0.2 * QUIET_CORES)
            return readings.count(True) == QUIET_READINGS

        try:
            return wait_until(quiet, seconds, poll_seconds=0)
        except TimeoutError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        for pid in family(self.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it has just ended

    def _said(self) -> str:
        return f":\n{self.log_text()}" if self.log else ""


StartServer = Callable[..., Server]


@contextmanager
def running(
    command: Sequence[str],
    *,
    port: int | None = None,
    log: Path | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The server that `command` starts, which gets the port, a free one by default, as its last argument."""
    port = port or free_port()
    output = log.open("wb") if log else None
    try:
        process = subprocess.Popen(
            [*command, str(port)], cwd=cwd, env=environment, stdout=output, stderr=output and subprocess.STDOUT
        )
    finally:
        if output:
            output.close()
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        yield server
    finally:
        server.resume()
        members = family(process.pid)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in filter(is_orphan, members):  # workers that their server has left behind
            os.kill(pid, signal.SIGKILL)


@contextmanager
def crossvit_serve(log: Path | None, *options: str, port: int | None = None) -> Iterator[Server]:
    """`crossvit serve` with one decoder and no grace period, unless `options` differ; it may not be ready yet."""
    command = [
        sys.executable,
        "-m",
        "app",
        "serve",
        "--decoders",
        "1",
        "--grace-seconds",
        "0",
        *_LOAD_LIMIT,
        *options,
        "--port",
    ]
    with running(command, port=port, log=log) as server:
        yield server


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
