"""A worker whose calls return before their work is done."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.errors import BadImage
from app.processes.async_worker import AsyncWorker
from app.processes.worker import Worker, WorkerFailed, WorkerHung

SECONDS = 0.4


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@asynccontextmanager
async def later() -> AsyncIterator[AsyncWorker]:
    started = await asyncio.to_thread(Worker, "target", "tests.support.worker_targets:Later", seconds=30)
    worker = AsyncWorker(started)
    try:
        yield worker
    finally:
        await worker.kill()


def test_a_call_begins_while_the_one_before_it_is_pending_and_answers_come_in_order() -> None:
    async def main() -> None:
        async with later() as worker:
            answered: list[str] = []

            async def call(value: str, seconds: float) -> None:
                (found,), _ = await worker.call("later", [value, seconds], seconds=5)
                answered.append(found)

            began = time.monotonic()
            await asyncio.gather(call("slow", SECONDS), call("quick", 0.0), call("last", SECONDS))
            assert SECONDS <= time.monotonic() - began < 2 * SECONDS
            assert answered == ["slow", "quick", "last"]
            beginnings, _ = await worker.call("beginnings", [], seconds=5)
            assert max(beginnings) - min(beginnings) < SECONDS / 2

    asyncio.run(main())


def test_errors_come_in_order_too() -> None:
    async def main() -> None:
        async with later() as worker:
            calls: list[tuple[str, list[Any]]] = [
                ("later", ["x", SECONDS]),
                ("fail", []),
                ("later", [None, 0.0]),
                ("later", ["y", 0.0]),
            ]
            work = [worker.call(method, values, seconds=5) for method, values in calls]
            first, failed, refused, last = await asyncio.gather(*work, return_exceptions=True)
            assert (first, last) == ((["x"], []), (["y"], []))
            assert isinstance(failed, WorkerFailed)
            assert "by zero" in str(failed)
            assert isinstance(refused, BadImage)

    asyncio.run(main())


def test_a_result_that_never_gets_ready_is_a_hang() -> None:
    async def main() -> None:
        async with later() as worker:
            with pytest.raises(WorkerHung, match=r"no answer within 0\.3 s"):
                await worker.call("later", ["never", 60.0], seconds=0.3)
            assert worker.closed

    asyncio.run(main())
