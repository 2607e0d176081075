import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.errors import BadImage
from app.worker import Limits, Worker, WorkerDied, WorkerFailed, WorkerHung, spare
from tests.app.workers import children

TARGET = "tests.app.workers:Target"


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker("target", TARGET, ["it"], seconds=30)
    yield started
    started.kill()


def test_values_and_arrays_come_back_as_they_went(worker: Worker) -> None:
    arrays: list[NDArray[Any]] = [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.array([1.5, np.nan], np.float32),
        np.empty((0, 3)),
    ]
    (name, value), back = worker.call("echo", [{"a": [1, None, "é"]}], arrays, seconds=5)
    assert (name, value) == ("it", {"a": [1, None, "é"]})
    for sent, received in zip(arrays, back, strict=True):
        assert sent.dtype == received.dtype
        np.testing.assert_array_equal(sent, received)


def test_megabytes_go_through(worker: Worker) -> None:
    array = np.random.default_rng(0).integers(0, 255, 30_000_000, np.uint8)
    _, (back,) = worker.call("echo", [0], [array], seconds=10)
    assert np.array_equal(array, back)


def test_many_arrays_go_through(worker: Worker) -> None:
    arrays = [np.full(number % 7 * 1000, number, np.uint16) for number in range(300)]
    _, back = worker.call("echo", [0], [*arrays], seconds=10)
    assert all(map(np.array_equal, arrays, back))
    assert len(back) == 300


def test_a_service_error_is_raised_here_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(BadImage, match="not this one"):
        worker.call("refuse", [], [], seconds=5)
    assert worker.call("echo", [1], [], seconds=5)[0] == ["it", 1]


def test_another_error_comes_with_its_traceback_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)Traceback.*ArithmeticError: by zero"):
        worker.call("fail", [], [], seconds=5)
    assert worker.alive


def test_one_that_hangs_is_killed_in_time(worker: Worker) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerHung, match=r"no answer within 0\.2 s"):
        worker.call("hang", [60], [], seconds=0.2)
    assert time.monotonic() - started < 5
    assert not worker.alive


def test_one_that_is_stopped_is_killed_in_time(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerHung):
        worker.call("echo", [0], [], seconds=0.2)
    assert not worker.alive


def test_one_that_crashes_says_how(worker: Worker) -> None:
    with pytest.raises(WorkerDied, match="ended by SIGSEGV"):
        worker.call("crash", [], [], seconds=5)
    with pytest.raises(WorkerDied):
        worker.call("echo", [0], [], seconds=5)


def test_what_cannot_be_made_is_said_and_leaves_no_process() -> None:
    with pytest.raises(BadImage, match="cannot be made"):
        Worker("target", "tests.app.workers:unmakeable", seconds=30)
    assert children(os.getpid(), "target") == []


def test_memory_is_capped_and_freed() -> None:
    worker = Worker("target", TARGET, ["it"], seconds=30, limits=Limits(memory_bytes=100 << 20))
    with pytest.raises(WorkerFailed, match="MemoryError"):
        worker.call("take", [200 << 20], [], seconds=5)
    for _ in range(3):
        worker.call("take", [50 << 20], [], seconds=5)
    worker.kill()


def test_a_sealed_one_opens_neither_files_nor_sockets(worker: Worker) -> None:
    assert worker.call("reach_out", [], [], seconds=5)[0] == ["file", "socket"]
    sealed = Worker("target", TARGET, ["it"], seconds=30, limits=Limits(sealed=True))
    assert sealed.call("reach_out", [], [], seconds=5)[0] == []
    sealed.kill()


def test_open_files_are_given_to_it(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        files.append(os.open(tmp_path / name, os.O_RDONLY))
        (tmp_path / name).unlink()
    worker = Worker("reader", "tests.app.workers:Reader", files=files, seconds=30)
    for file in files:
        os.close(file)
    assert worker.call("read", [], [], seconds=5)[0] == ["a", "b"]
    worker.kill()


def spared(*more: str) -> int:
    """The process of a new spare for `TARGET`."""
    spare("target", TARGET.partition(":")[0], *more)
    deadline = time.monotonic() + 5
    while not (found := children(os.getpid(), "target")):  # what it runs is not to be seen at once
        assert time.monotonic() < deadline
    return found[0]


def test_a_spare_process_is_had_by_the_next_worker_of_its_module() -> None:
    pid = spared("no.such.module")
    workers = [
        Worker("other", "collections:UserList", seconds=30),
        Worker("target", TARGET, ["it"], seconds=30, keep_environment=True),
        Worker("target", TARGET, ["it"], seconds=30),
        Worker("target", TARGET, ["it"], seconds=30),
    ]
    assert [worker.pid == pid for worker in workers] == [False, False, True, False]
    assert workers[2].call("echo", [1], [], seconds=5)[0] == ["it", 1]
    for worker in workers:
        worker.kill()


def test_a_spare_process_that_has_died_is_not_had() -> None:
    pid = spared()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    worker = Worker("target", TARGET, ["it"], seconds=30)
    assert worker.call("echo", [1], [], seconds=5)[0] == ["it", 1]
    worker.kill()


@pytest.mark.parametrize("what", ["import os; os.abort()", "import time; time.sleep(60)"])
def test_a_spare_process_that_its_imports_end_or_hold_up_is_not_had(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_library.py").write_text(what)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}{os.pathsep}{tmp_path}")
    monkeypatch.setattr("app.worker._IMPORT_SECONDS", 2.0)
    pid = spared("bad_library")
    spawned: list[int] = []
    worker = Worker("target", TARGET, ["it"], seconds=30, on_spawn=lambda worker: spawned.append(worker.pid))
    assert worker.call("echo", [1], [], seconds=5)[0] == ["it", 1]
    assert spawned == [pid, worker.pid]
    assert children(os.getpid(), "target") == [worker.pid]
    worker.kill()


def test_keys_in_the_environment_stay_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSVIT_API_KEYS", "secret-key")
    monkeypatch.setenv("OTHER", "1")
    for keep in (False, True):
        worker = Worker("target", TARGET, ["it"], seconds=30, keep_environment=keep)
        names, _ = worker.call("environment", [], [], seconds=5)
        assert "CROSSVIT_API_KEYS" not in names
        assert ("OTHER" in names) == keep
        worker.kill()


def test_signals_meant_for_the_service_do_not_end_it(worker: Worker) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker.pid, number)
    assert worker.call("echo", [1], [], seconds=5)[0] == ["it", 1]


def test_it_ends_when_the_service_has_gone(worker: Worker) -> None:
    worker._socket.close()
    deadline = time.monotonic() + 5
    while worker.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not worker.alive


def test_one_that_nobody_needed_ends_with_the_service_even_if_it_hangs() -> None:
    code = (
        "import os, signal; from app import worker; worker.spare('target', 'json'); "
        "(_, _, (process, _)), = worker._spares; os.kill(process.pid, signal.SIGSTOP); print(process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_what_a_worker_logs_is_logged_here(bundle_log: pytest.LogCaptureFixture) -> None:
    worker = Worker("target", "tests.app.workers:Talker", seconds=30)
    worker.call("say", ["hello"], [], seconds=5)
    worker.kill()
    assert "target: hello" in bundle_log.text


@pytest.fixture
def bundle_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog
