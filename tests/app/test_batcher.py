import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from app.batcher import Batcher


class Engine:
    """Doubles its items when it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        assert self.go.wait(5)
        return [2 * item for item in items]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110, the engine is in a thread
            await asyncio.sleep(0.001)


def test_what_waits_while_the_engine_is_busy_is_the_next_batch() -> None:
    async def main() -> None:
        engine = Engine()
        async with Batcher(engine, limit=3) as batcher:
            answers = [asyncio.create_task(batcher.submit("key", 0))]
            await until(lambda: engine.batches == [[0]])
            answers += [asyncio.create_task(batcher.submit("key", item)) for item in range(1, 6)]
            await asyncio.sleep(0)
            engine.go.set()
            assert [answer.result for answer in await asyncio.gather(*answers)] == [0, 2, 4, 6, 8, 10]
        assert engine.batches == [[0], [1, 2, 3], [4, 5]]

    asyncio.run(main())


def test_a_batch_has_one_key_and_the_oldest_goes_first() -> None:
    async def main() -> None:
        engine = Engine()
        async with Batcher(engine, limit=8) as batcher:
            answers = [asyncio.create_task(batcher.submit(224, 0))]
            await until(lambda: engine.batches == [[0]])
            order = [(384, 1), (224, 2), (384, 3), (224, 4)]
            answers += [asyncio.create_task(batcher.submit(key, item)) for key, item in order]
            await asyncio.sleep(0)
            engine.go.set()
            await asyncio.gather(*answers)
        assert engine.batches == [[0], [1, 3], [2, 4]]

    asyncio.run(main())


def test_a_cancelled_request_never_reaches_the_engine() -> None:
    async def main() -> None:
        engine = Engine()
        async with Batcher(engine, limit=2) as batcher:
            answers = [asyncio.create_task(batcher.submit("key", 0))]
            await until(lambda: engine.batches == [[0]])
            answers += [asyncio.create_task(batcher.submit("key", item)) for item in (1, 2, 3)]
            await asyncio.sleep(0)
            answers[1].cancel()
            await asyncio.sleep(0)
            engine.go.set()
            await asyncio.gather(*answers, return_exceptions=True)
        assert engine.batches == [[0], [2, 3]]

    asyncio.run(main())


def test_a_request_cancelled_while_its_batch_runs_does_not_harm_the_others() -> None:
    async def main() -> None:
        engine = Engine()
        async with Batcher(engine, limit=2) as batcher:
            first, second = (asyncio.create_task(batcher.submit("key", item)) for item in (1, 2))
            await until(lambda: engine.batches == [[1, 2]])
            first.cancel()
            await asyncio.sleep(0)
            engine.go.set()
            assert (await second).result == 4

    asyncio.run(main())


def test_a_failing_call_fails_its_batch_and_no_other() -> None:
    def run(items: list[int]) -> Sequence[int]:
        if items == [13]:
            raise ArithmeticError
        return items

    async def main() -> None:
        async with Batcher(run, limit=1) as batcher:
            results = await asyncio.gather(
                *(batcher.submit("key", item) for item in (1, 13, 2)), return_exceptions=True
            )
        assert isinstance(results[1], ArithmeticError)
        assert [result.result for result in (results[0], results[2]) if not isinstance(result, BaseException)] == [1, 2]

    asyncio.run(main())


def test_closing_finishes_what_was_submitted_and_takes_nothing_more() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = Batcher(engine, limit=1)
        async with batcher:
            answers = [asyncio.create_task(batcher.submit("key", item)) for item in range(3)]
            await until(lambda: engine.batches == [[0]])
            asyncio.get_running_loop().call_later(0.05, engine.go.set)
        assert [(await answer).result for answer in answers] == [0, 2, 4]
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.submit("key", 4)

    asyncio.run(main())


def test_waiting_and_running_are_measured() -> None:
    async def main() -> None:
        engine = Engine()
        async with Batcher(engine, limit=1) as batcher:
            answers = [asyncio.create_task(batcher.submit("key", item)) for item in range(2)]
            asyncio.get_running_loop().call_later(0.1, engine.go.set)
            first, second = await asyncio.gather(*answers)
        assert first.queue < 0.05 <= first.inference
        assert second.queue >= 0.1 > second.inference

    asyncio.run(main())


def test_a_call_that_gives_too_few_results_fails_its_batch_and_no_other() -> None:
    def run(items: list[int]) -> Sequence[int]:
        return [] if items == [13] else items

    async def main() -> None:
        async with Batcher(run, limit=1) as batcher:
            with pytest.raises(ValueError, match="zip"):
                await batcher.submit("key", 13)
            assert (await batcher.submit("key", 1)).result == 1

    asyncio.run(main())
