import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import cpu_seconds, family, proportional_mb, resident_mb
from tests.support.servers import Server, ServerEnded, running
from tests.support.waiting import wait_until

BUSY = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose only child works without end."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    wait_until(lambda: len(family(process.pid)) == 2)
    yield process
    os.killpg(process.pid, 9)
    process.wait()


def test_a_server_that_works_is_not_quiet_and_one_that_is_paused_is(busy: subprocess.Popen[bytes]) -> None:
    server = Server(busy, "http://127.0.0.1:1234")
    wait_until(lambda: cpu_seconds(busy.pid) > 0.05)
    assert not server.wait_until_quiet(0.3)
    server.pause()
    assert server.wait_until_quiet()
    before = cpu_seconds(busy.pid)
    server.resume()
    wait_until(lambda: cpu_seconds(busy.pid) > before)
    assert server.port == 1234


def test_memory_counts_descendants_and_shared_memory_once(busy: subprocess.Popen[bytes]) -> None:
    child = family(busy.pid)[1]
    assert resident_mb(busy.pid) > resident_mb(child) > 1
    assert 0 < proportional_mb(busy.pid) < resident_mb(busy.pid)


def test_a_server_that_ends_before_it_is_ready_is_an_error_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no port'); exit(3)"]
    with running(command, log=tmp_path / "log") as server, pytest.raises(ServerEnded, match=r"status 3 .*\nno port"):
        server.wait_until_ready()


def test_a_server_that_is_never_ready_is_an_error_in_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with running(command, log=tmp_path / "log") as server, pytest.raises(TimeoutError, match=r"not ready after 0\.2 s"):
        server.wait_until_ready(0.2)


def test_a_running_server_and_its_workers_end_with_the_block(tmp_path: Path) -> None:
    (tmp_path / "readyz").write_text("ready")
    with running([sys.executable, "-m", "http.server", "--bind", "127.0.0.1"], cwd=tmp_path) as server:
        server.wait_until_ready()
        server.pause()
    assert not Path(f"/proc/{server.pid}").exists()
