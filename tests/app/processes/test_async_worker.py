"""Calls on the event loop to real worker processes, and to one that sends what a test writes."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import BadImage
from app.processes.async_worker import AsyncWorker
from app.processes.channel import EMPTY_REPLY, Reply
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from tests.support.waiting import until
from tests.support.worker_answers import ANSWER, fake_worker, invalid_answers, message
from tests.support.worker_targets import TARGET

LARGE = "x" * 3_000_000  # more than a socket takes at once


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@pytest.fixture
def worker() -> Any:
    started = Worker("target", TARGET, ["it"], seconds=30)
    yield started
    started.kill()


def checked(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main`; what the event loop's exception handler is told, as for an error that nobody awaits, fails."""
    reported: list[Any] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        await main()
        gc.collect()

    asyncio.run(watched())
    assert reported == []


class Scripted:
    """An AsyncWorker whose process is the test; it writes to `other`."""

    def __init__(self) -> None:
        ours, self.other = socket.socketpair()
        self.ends = 0
        self.calls = AsyncWorker(fake_worker(ours), self._ended)

    def _ended(self) -> None:
        self.ends += 1

    def call(self, seconds: float = 10, reply: Reply | None = None) -> asyncio.Task[Any]:
        options = {} if reply is None else {"reply": reply}
        return asyncio.create_task(self.calls.call("echo", [], seconds=seconds, **options))


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    found = Scripted()
    with found.other:
        yield found
        await found.calls.kill()


def answer(value: object) -> bytes:
    return message(ANSWER | {"values": [value]})


def test_several_calls_on_their_way_are_answered_in_their_order(worker: Worker) -> None:
    async def main() -> None:
        calls = AsyncWorker(worker)
        sizes = [0, 1, 70_000, 5, 2_000_000, 3] * 3
        answers = await asyncio.gather(
            *(calls.call("echo", [[number, "x" * size]], seconds=30) for number, size in enumerate(sizes))
        )
        assert [values for values, _ in answers] == [["it", [number, "x" * size]] for number, size in enumerate(sizes)]
        calls.close()

    checked(main)


def test_large_answers_with_arrays_come_whole(worker: Worker) -> None:
    async def main() -> None:
        calls = AsyncWorker(worker)
        for size in (0, 1, 30_000_000, 7):
            _, (array,) = await calls.call("take", [size], seconds=30)
            assert (array.shape, array.sum()) == ((size,), size)
        calls.close()

    checked(main)


def test_errors_and_log_records_are_as_those_of_a_call_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        worker = Worker("target", TARGET, ["it"], seconds=30)
        calls = AsyncWorker(worker)
        with pytest.raises(BadImage, match="not this one"):
            await calls.call("refuse", [], seconds=30)
        with pytest.raises(WorkerFailed, match=r"(?s)Traceback.*ArithmeticError: by zero"):
            await calls.call("fail", [], seconds=30)
        assert (await calls.call("echo", [1], seconds=30))[0] == ["it", 1]
        await calls.kill()
        talker = AsyncWorker(Worker("talker", "tests.support.worker_targets:Talker", seconds=30))
        await talker.call("say", ["hello"], seconds=30)
        await talker.kill()

    caplog.set_level(logging.INFO)
    checked(main)
    assert "talker: hello" in caplog.messages


@pytest.mark.parametrize("waiting", [0, 2])
def test_a_hang_kills_the_worker_and_fails_all_that_wait_for_it(worker: Worker, waiting: int) -> None:
    async def main() -> None:
        calls = AsyncWorker(worker)
        hung = calls.call("hang", [60], seconds=0.3)
        more = [calls.call("echo", [1], seconds=60) for _ in range(waiting)]
        failed = await asyncio.gather(hung, *more, return_exceptions=True)
        assert {type(err) for err in failed} == {WorkerHung}
        assert str(failed[0]) == "no answer within 0.3 s"
        assert (calls.closed, worker.alive) == (True, False)

    checked(main)


def test_a_stopped_worker_that_takes_no_request_is_killed(worker: Worker) -> None:
    async def main() -> None:
        calls = AsyncWorker(worker)
        os.kill(worker.pid, signal.SIGSTOP)
        async with asyncio.timeout(20):
            with pytest.raises(WorkerHung):
                await calls.call("echo", [LARGE], seconds=0.3)
        assert not worker.alive

    checked(main)


def test_a_call_that_is_cancelled_while_its_request_is_sent_does_not_spoil_the_next(worker: Worker) -> None:
    async def main() -> None:
        calls = AsyncWorker(worker)
        os.kill(worker.pid, signal.SIGSTOP)
        first = asyncio.create_task(calls.call("echo", [LARGE], seconds=30))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(calls.call("echo", [2], seconds=30))
        await asyncio.sleep(0)
        first.cancel()
        os.kill(worker.pid, signal.SIGCONT)
        assert (await second)[0] == ["it", 2]
        assert first.cancelled()
        calls.close()

    checked(main)


def test_a_cancelled_call_leaves_the_next_call_its_own_answer() -> None:
    async def main() -> None:
        async with scripted() as one:
            for part in (0, 10):  # before any byte of its answer came, and in the middle of it
                first = one.call()
                await asyncio.sleep(0)
                one.other.send(answer("first")[:part])
                await asyncio.sleep(0.02)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                second = one.call()
                await asyncio.sleep(0)
                one.other.send(answer("first")[part:] + answer("second"))
                assert (await second)[0] == ["second"]
            assert one.ends == 0

    checked(main)


def test_a_crash_fails_all_calls_with_its_signal(worker: Worker) -> None:
    async def main() -> None:
        ends: list[str] = []
        calls = AsyncWorker(worker, lambda: ends.append("idle"))
        failed = await asyncio.gather(
            calls.call("crash", [], seconds=30), calls.call("echo", [1], seconds=30), return_exceptions=True
        )
        assert [(type(err), str(err)) for err in failed] == [(WorkerDied, "ended by SIGSEGV")] * 2
        with pytest.raises(WorkerDied, match="ended by SIGSEGV"):
            await calls.call("echo", [1], seconds=30)
        assert ends == []  # its calls have told

    checked(main)


def test_a_worker_that_ends_while_it_is_idle_is_reported_once(worker: Worker) -> None:
    async def main() -> None:
        ends: list[str] = []
        calls = AsyncWorker(worker, lambda: ends.append("idle"))
        await calls.call("echo", [1], seconds=30)
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: ends)
        await asyncio.sleep(0.05)
        assert (ends, calls.closed) == (["idle"], True)

    checked(main)


def test_a_worker_that_ended_just_before_a_call_fails_it_and_nothing_is_left_unread() -> None:
    async def main() -> None:
        async with scripted() as one:
            one.other.close()  # the event loop has not seen it yet
            with pytest.raises(WorkerDied):
                await one.calls.call("echo", [], seconds=10)

    checked(main)


def test_a_worker_that_closes_its_connection_in_the_middle_of_an_answer_fails_the_call() -> None:
    async def main() -> None:
        async with scripted() as one:
            call = one.call()
            await asyncio.sleep(0)
            one.other.recv(1000)  # or else the connection would be reset
            one.other.send(answer(1)[:10])
            one.other.close()
            with pytest.raises(WorkerDied):
                await call

    checked(main)


@pytest.mark.parametrize("when", ["idle", "with its answer"])
def test_data_that_was_not_asked_for_ends_the_worker(when: str) -> None:
    async def main() -> None:
        async with scripted() as one:
            call = one.call() if when == "with its answer" else None
            await asyncio.sleep(0)
            one.other.send(answer(1) * (1 if call is None else 2))
            if call is not None:
                assert (await call)[0] == [1]
            await until(lambda: one.ends)
            assert (one.ends, one.calls.closed) == (1, True)

    checked(main)


def test_invalid_answers_fail_the_call_and_kill_the_worker() -> None:
    strict = Reply(head_bytes=1 << 20, array_bytes=1000, raises=(BadImage,))

    async def main() -> None:
        for what, content in list(invalid_answers().items())[::7]:
            async with scripted() as one:
                call = one.call(reply=strict)
                await asyncio.sleep(0)
                one.other.setblocking(False)
                with one.other:
                    await asyncio.get_running_loop().sock_sendall(one.other, content)
                with pytest.raises((WorkerDied, WorkerFailed)):
                    await call
                assert one.calls.closed or b'"error": ""' in content, what

    checked(main)


def test_an_answer_that_the_check_of_its_call_refuses_fails_the_calls_after_it_too() -> None:
    async def main() -> None:
        async with scripted() as one:
            first, second = one.call(reply=EMPTY_REPLY), one.call()
            await asyncio.sleep(0)
            one.other.send(message(ANSWER | {"arrays": [{"dtype": "|u1", "shape": [1]}]}, b"x") + answer(2))
            for err in await asyncio.gather(first, second, return_exceptions=True):
                assert isinstance(err, WorkerDied)
                assert str(err) == "it sent an invalid answer, and was killed"

    checked(main)


def test_an_answer_in_pieces_of_a_byte_is_read() -> None:
    async def main() -> None:
        async with scripted() as one:
            first, second = one.call(), one.call()
            await asyncio.sleep(0)
            array = message(ANSWER | {"arrays": [{"dtype": "<u2", "shape": [3]}]}, bytes(range(6)))
            for byte in array + answer("é"):
                one.other.send(bytes([byte]))
                await asyncio.sleep(0)
            _, (found,) = await first
            assert np.array_equal(found, np.arange(6, dtype=np.uint8).view("<u2"))
            assert (await second)[0] == ["é"]

    checked(main)


def test_closing_fails_what_is_on_its_way_and_all_later_calls(worker: Worker) -> None:
    async def main() -> None:
        calls = AsyncWorker(worker)
        work = [asyncio.create_task(calls.call("hang", [60], seconds=60)) for _ in range(2)]
        await asyncio.sleep(0.05)
        calls.close()
        calls.close()
        for err in await asyncio.gather(*work, return_exceptions=True):
            assert isinstance(err, WorkerDied)
        with pytest.raises(WorkerDied):
            await calls.call("echo", [1], seconds=30)
        assert not worker.alive

    checked(main)
