import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.errors import BadImage
from app.processes.channel import Arrays, Limits, Reply, Values
from app.processes.process_start import start_spare
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from tests.support.processes import workers
from tests.support.waiting import wait_until
from tests.support.worker_answers import ANSWER, BYTE, arrays, fake_worker, invalid_answers, logged, message
from tests.support.worker_targets import TARGET


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


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
    (name, value), back = worker.call("echo", [{"a": [1, None, "é"]}], arrays, seconds=30)
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
        worker.call("refuse", [], [], seconds=30)
    assert worker.call("echo", [1], [], seconds=30)[0] == ["it", 1]


def test_another_error_comes_with_its_traceback_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)Traceback.*ArithmeticError: by zero"):
        worker.call("fail", [], [], seconds=30)
    assert worker.alive


def test_a_worker_that_does_not_answer_in_time_is_killed(worker: Worker) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerHung, match=r"no answer within 0\.2 s"):
        worker.call("hang", [60], [], seconds=0.2)
    assert time.monotonic() - started < 30
    assert not worker.alive


@pytest.mark.parametrize("limits", [Limits(), Limits(memory_bytes=1 << 30, sealed=True)])
def test_where_a_worker_hangs_or_crashes_is_logged(limits: Limits, caplog: pytest.LogCaptureFixture) -> None:
    for method, values, seconds, error in (("hang", [60], 0.2, WorkerHung), ("crash", [], 30, WorkerDied)):
        started = Worker("target", TARGET, ["it"], seconds=30, limits=limits)
        with pytest.raises(error):
            started.call(method, values, [], seconds=seconds)
    hang, crash = (record.getMessage() for record in caplog.records)
    assert hang.startswith("target hangs here: ")
    assert "worker_targets.py" in hang
    assert "in hang" in hang
    assert crash.startswith("target crashed here: Fatal Python error: Segmentation fault")
    assert "in crash" in crash
    assert ("\n" in hang) == (not limits.sealed)


def test_a_stopped_worker_is_killed(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerHung):
        worker.call("echo", [0], [], seconds=0.2)
    assert not worker.alive


def test_a_crash_is_raised_with_its_signal(worker: Worker) -> None:
    with pytest.raises(WorkerDied, match="ended by SIGSEGV"):
        worker.call("crash", [], [], seconds=30)
    with pytest.raises(WorkerDied):
        worker.call("echo", [0], [], seconds=30)


def test_an_object_that_cannot_be_made_raises_and_leaves_no_process() -> None:
    with pytest.raises(BadImage, match="cannot be made"):
        Worker("target", "tests.support.worker_targets:unmakeable", seconds=30)
    assert workers(os.getpid(), "target") == []


def test_memory_is_capped_and_freed() -> None:
    worker = Worker("target", TARGET, ["it"], seconds=30, limits=Limits(memory_bytes=100 << 20))
    with pytest.raises(WorkerFailed, match="MemoryError"):
        worker.call("take", [200 << 20], [], seconds=30)
    for _ in range(3):
        worker.call("take", [50 << 20], [], seconds=30)
    worker.kill()


def test_a_sealed_worker_opens_neither_files_nor_sockets(worker: Worker) -> None:
    assert worker.call("reach_out", [], [], seconds=30)[0] == ["file", "socket"]
    sealed = Worker("target", TARGET, ["it"], seconds=30, limits=Limits(sealed=True))
    assert sealed.call("reach_out", [], [], seconds=30)[0] == []
    sealed.kill()


def test_a_worker_reads_the_open_files_that_it_is_given(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        files.append(os.open(tmp_path / name, os.O_RDONLY))
        (tmp_path / name).unlink()
    worker = Worker("reader", "tests.support.worker_targets:Reader", files=files, seconds=30)
    for file in files:
        os.close(file)
    assert worker.call("read", [], [], seconds=30)[0] == ["a", "b"]
    worker.kill()


def spared(*more: str) -> int:
    """The process of a new spare for `TARGET`."""
    start_spare("target", TARGET.partition(":")[0], *more)
    (pid,) = wait_until(lambda: workers(os.getpid(), "target"))  # once the process has its command line
    return pid


def test_a_spare_process_is_used_by_the_next_worker_of_its_module() -> None:
    pid = spared("no.such.module")
    workers = [
        Worker("other", "collections:UserList", seconds=30),
        Worker("target", TARGET, ["it"], seconds=30, keep_environment=True),
        Worker("target", TARGET, ["it"], seconds=30),
        Worker("target", TARGET, ["it"], seconds=30),
    ]
    assert [worker.pid == pid for worker in workers] == [False, False, True, False]
    assert workers[2].call("echo", [1], [], seconds=30)[0] == ["it", 1]
    for worker in workers:
        worker.kill()


def test_a_dead_spare_process_is_not_used() -> None:
    pid = spared()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z")
    worker = Worker("target", TARGET, ["it"], seconds=30)
    assert worker.call("echo", [1], [], seconds=30)[0] == ["it", 1]
    worker.kill()


@pytest.mark.parametrize("what", ["import os; os.abort()", "import time; time.sleep(60)"])
def test_a_spare_process_whose_imports_crash_or_hang_is_not_used(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_library.py").write_text(what)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[3]}{os.pathsep}{tmp_path}")
    monkeypatch.setattr("app.processes.worker._IMPORT_SECONDS", 2.0)
    pid = spared("bad_library")
    spawned: list[int] = []
    worker = Worker("target", TARGET, ["it"], seconds=30, on_spawn=lambda worker: spawned.append(worker.pid))
    assert worker.call("echo", [1], [], seconds=30)[0] == ["it", 1]
    assert spawned == [pid, worker.pid]
    assert workers(os.getpid(), "target") == [worker.pid]
    worker.kill()


def test_workers_do_not_get_the_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSVIT_API_KEYS", "secret-key")
    monkeypatch.setenv("OTHER", "1")
    for keep in (False, True):
        worker = Worker("target", TARGET, ["it"], seconds=30, keep_environment=keep)
        names, _ = worker.call("environment", [], [], seconds=30)
        assert "CROSSVIT_API_KEYS" not in names
        assert ("OTHER" in names) == keep
        worker.kill()


def test_a_worker_ignores_the_signals_that_end_the_service(worker: Worker) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker.pid, number)
    assert worker.call("echo", [1], [], seconds=30)[0] == ["it", 1]


def test_a_worker_ends_when_its_connection_ends(worker: Worker) -> None:
    worker.connection.close()
    wait_until(lambda: not worker.alive)


def test_an_unused_spare_process_ends_with_the_service_even_if_it_hangs() -> None:
    code = (
        "import os, signal; from app.processes import process_start; process_start.start_spare('target', 'json'); "
        "(_, _, started), = process_start._spares; pid = started.process.pid; os.kill(pid, signal.SIGSTOP); print(pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_log_records_of_a_worker_are_logged_by_the_service(bundle_log: pytest.LogCaptureFixture) -> None:
    worker = Worker("target", "tests.support.worker_targets:Talker", seconds=30)
    worker.call("say", ["hello"], [], seconds=30)
    worker.kill()
    assert "target: hello" in bundle_log.text


@pytest.fixture
def bundle_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


# A worker that an image has taken over


STRICT = Reply(head_bytes=1 << 20, array_bytes=1000, raises=(BadImage,))


def call_answered_by(answer: bytes, reply: Reply = STRICT) -> Any:
    """The result of a call to a worker that sends `answer` and ends."""
    ours, theirs = socket.socketpair()
    worker = fake_worker(ours)

    def say() -> None:
        with theirs, suppress(OSError):
            theirs.recv(1 << 16)
            theirs.sendall(answer)

    thread = threading.Thread(target=say)
    thread.start()
    try:
        return worker.call("echo", [], [], seconds=10, reply=reply)
    finally:
        ours.close()
        thread.join()


def test_invalid_answers_kill_the_worker_and_nothing_else() -> None:
    answers = invalid_answers()
    assert len(answers) > 200
    tracemalloc.start()
    for what, answer in answers.items():
        with pytest.raises((WorkerDied, WorkerFailed)) as caught:
            call_answered_by(answer)
        assert caught.type is WorkerDied or '"error": ""' in answer.decode(errors="replace"), what
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_answers_of_random_bytes_kill_the_worker_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    right = arrays(BYTE)
    for _ in range(300):
        spoilt = np.frombuffer(right, np.uint8).copy()
        places = rng.integers(0, len(spoilt) - 99, rng.integers(1, 4))
        spoilt[places] = rng.integers(0, 256, len(places))
        with suppress(WorkerDied):
            call_answered_by(spoilt.tobytes())


def test_an_answer_within_its_bounds_is_returned() -> None:
    values, (array,) = call_answered_by(message(ANSWER | {"arrays": [BYTE], "values": [1, {"a": None}]}, b"\7"))
    assert (values, array.tolist()) == ([1, {"a": None}], [7])
    with pytest.raises(BadImage, match="not this one"):
        call_answered_by(message({"arrays": [], "log": [], "error": "BadImage", "message": "not this one"}))


def test_an_answer_that_fails_the_callers_check_kills_the_worker() -> None:
    def check(values: Values, _: Arrays) -> None:
        (_first,) = values

    with pytest.raises(WorkerDied, match="it sent an invalid answer, and was killed"):
        call_answered_by(message(ANSWER), Reply(check=check))


def test_control_characters_of_a_worker_are_escaped(bundle_log: pytest.LogCaptureFixture) -> None:
    call_answered_by(logged([40, "\x1b[2Jred\u202e"]))
    assert "\\x1b[2Jred\\u202e" in bundle_log.text
    with pytest.raises(BadImage, match=r"^\\x1b\[31m$"):
        call_answered_by(message({"arrays": [], "log": [], "error": "BadImage", "message": "\x1b[31m"}))


def test_long_and_many_log_records_are_cut_in_the_worker() -> None:
    worker = Worker("target", "tests.support.worker_targets:Talker", seconds=30)
    worker.call("say", ["x" * 100_000 + "é\ud800" * 1000], [], seconds=30)
    for _ in range(2):
        worker.call("say_often", [1000], [], seconds=30)
    worker.kill()


def test_a_failed_start_leaves_no_open_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(10):
        with pytest.raises(BlockingIOError):
            Worker("target", TARGET, ["it"], seconds=30)
        start_spare("target", TARGET.partition(":")[0])
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_sealed_worker_cannot_begin_a_log_line_or_log_an_error(caplog: pytest.LogCaptureFixture) -> None:
    sealed = Worker("target", "tests.support.worker_targets:Talker", [], seconds=30, limits=Limits(sealed=True))
    sealed.call("say", ["a\r\n2026-01-01 ERROR forged\x85\u2028b"], [], seconds=30)
    sealed.call("shout", ["fire"], [], seconds=30)
    with pytest.raises(WorkerFailed, match=r"^Traceback.*\\n.*ArithmeticError: a\\nb\\n$"):
        sealed.call("fail", ["a\nb"], [], seconds=30)
    sealed.kill()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", r"target: a\r\n2026-01-01 ERROR forged\x85\u2028b"),
        ("WARNING", "target: fire"),
    ]
