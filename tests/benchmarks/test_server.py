import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.server import Server, cpu_seconds, family, proportional_mb, resident_mb, running

BUSY = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


def until(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def busy() -> Iterator[int]:
    """A process whose only child works without end."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    until(lambda: len(family(process.pid)) == 2)
    yield process.pid
    os.killpg(process.pid, 9)
    process.wait()


def test_a_server_that_works_is_not_quiet_and_one_that_is_paused_is(busy: int) -> None:
    server = Server("http://127.0.0.1:1234", busy)
    until(lambda: cpu_seconds(busy) > 0.05)
    assert not server.wait_until_quiet(0.3)
    server.pause()
    assert server.wait_until_quiet()
    before = cpu_seconds(busy)
    server.resume()
    until(lambda: cpu_seconds(busy) > before)
    assert server.port == 1234


def test_memory_counts_descendants_and_what_is_shared_once(busy: int) -> None:
    child = family(busy)[1]
    assert resident_mb(busy) > resident_mb(child) > 1
    assert 0 < proportional_mb(busy) < resident_mb(busy)


def test_a_server_that_ends_before_it_is_ready_is_an_error_at_once() -> None:
    with pytest.raises(RuntimeError, match="ended with status 3"), running([sys.executable, "-c", "exit(3)"]):
        pytest.fail("it is not there")


def test_a_running_server_and_its_workers_end_with_the_block(tmp_path: Path) -> None:
    (tmp_path / "readyz").write_text("ready")
    with running([sys.executable, "-m", "http.server", "--bind", "127.0.0.1"], cwd=tmp_path) as server:
        server.pause()
    assert not Path(f"/proc/{server.pid}").exists()
