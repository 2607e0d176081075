"""A server for a benchmark: started, stopped, paused until its turn, and its memory read."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 180
STOP_SECONDS = 20
QUIET_CORES = 0.2  # a process that polls for work always uses some
QUIET_READINGS = 3  # in succession: a process that waits for a busy core seems quiet too


@dataclass
class Server:
    url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def pause(self) -> None:
        """Stop all its processes where they are: some servers poll while they have nothing to do."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run, and have done with its work before the next one's turn."""
        self.resume()
        try:
            yield
        finally:
            self.wait_until_quiet()
            self.pause()

    def wait_until_quiet(self, seconds: float = 60) -> bool:
        """Until it works no more on what clients that have left had asked for; whether that was within `seconds`."""
        deadline = time.monotonic() + seconds
        quiet = 0
        while quiet < QUIET_READINGS and time.monotonic() < deadline:
            before = cpu_seconds(self.pid)
            time.sleep(0.2)
            quiet = quiet + 1 if cpu_seconds(self.pid) - before < 0.2 * QUIET_CORES else 0
        return quiet == QUIET_READINGS

    def _signal(self, number: signal.Signals) -> None:
        for pid in family(self.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it has just ended


@contextmanager
def running(command: list[str], ready: str = "/readyz", cwd: Path | None = None) -> Iterator[Server]:
    """The server that `command`, with a free port as its last argument, starts; once `ready` answers 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([*command, str(port)], cwd=cwd)
    server = Server(f"http://127.0.0.1:{port}", process.pid)
    try:
        _wait_until_ready(server.url + ready, process)
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
        for pid in filter(_alive, members):  # workers that their server has left behind
            os.kill(pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue  # it has just ended
        children.setdefault(int(text.rpartition(") ")[2].split()[1]), []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def resident_mb(pid: int) -> float:
    """Memory of a process and its descendants, what they share counted in each."""
    return sum(_kilobytes(member, "status", "VmRSS") for member in family(pid)) / 1000


def proportional_mb(pid: int) -> float:
    """Memory of a process and its descendants, what they share counted once."""
    return sum(_kilobytes(member, "smaps_rollup", "Pss") for member in family(pid)) / 1000


def cpu_seconds(pid: int) -> float:
    """What a process and its descendants have used of all cores."""
    ticks = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _kilobytes(pid: int, file: str, field: str) -> int:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0
    return sum(map(int, re.findall(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)))


def _alive(pid: int) -> bool:
    """Whether `pid` still runs as one that nobody has taken over: its number may be another's by now."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:2]
    except OSError:
        return False
    return state != "Z" and parent == "1"


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client() as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with status {process.returncode} before it was ready")
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise TimeoutError(f"{url} is not ready after {START_SECONDS} s")
