import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from app.decoding.fair_queue import BACKGROUND_CALLER
from app.errors import QueueFull, TooLarge, TooLate
from app.serving.batcher import Batcher, Place
from app.timing import Interval
from tests.support.clock import Clock
from tests.support.waiting import until


class Engine:
    """Doubles its items when it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, _: int, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        async with asyncio.timeout(5):
            await self.go.wait()
        return [2 * item for item in items]


class TimedEngine:
    """Gives its items back; only its calls advance `clock`, by the seconds of their key, once it is let go."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.batches: list[list[int]] = []
        self.clock = Clock()
        self.go = asyncio.Event()
        self._seconds = seconds

    async def __call__(self, key: int, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        await self.go.wait()
        self.clock.now += self._seconds[key]
        return items


async def at_once(_: int, items: list[int]) -> Sequence[int]:
    return items


def batching(
    run: Callable[[int, list[int]], Any] = at_once, limit: int = 8, room: int = 100, **more: Any
) -> Batcher[int, int]:
    return Batcher[int, int](run, limit=lambda _: limit, room=lambda: room, **more)


def submit(batcher: Batcher[int, int], item: int, key: int = 224, deadline: float = math.inf) -> asyncio.Task[Any]:
    (place,) = batcher.enter()
    return asyncio.create_task(batcher.submit(place, key, item, deadline))


def test_what_waits_while_the_engine_is_busy_is_the_next_batch() -> None:
    async def main() -> None:
        engine = Engine()
        async with batching(engine, limit=3) as batcher:
            answers = [submit(batcher, 0)]
            await until(lambda: engine.batches == [[0]])
            answers += [submit(batcher, item) for item in range(1, 6)]
            await asyncio.sleep(0)
            engine.go.set()
            assert [answer.result for answer in await asyncio.gather(*answers)] == [0, 2, 4, 6, 8, 10]
        assert engine.batches == [[0], [1, 2, 3], [4, 5]]

    asyncio.run(main())


def test_a_batch_has_one_key_and_the_oldest_goes_first() -> None:
    async def main() -> None:
        engine = Engine()
        async with batching(engine) as batcher:
            answers = [submit(batcher, 0)]
            await until(lambda: engine.batches == [[0]])
            order = [(384, 1), (224, 2), (384, 3), (224, 4)]
            answers += [submit(batcher, item, key) for key, item in order]
            await asyncio.sleep(0)
            engine.go.set()
            await asyncio.gather(*answers)
        assert engine.batches == [[0], [1, 3], [2, 4]]

    asyncio.run(main())


def test_a_flood_at_one_resolution_holds_up_another_by_no_more_than_was_there_before() -> None:
    served: list[int] = []

    async def run(key: int, items: list[int]) -> Sequence[int]:
        served.extend([key] * len(items))
        await asyncio.sleep(0.001)
        return items

    async def main() -> None:
        async with batching(run, limit=4) as batcher:

            async def flood() -> None:
                while 480 not in served and len(served) < 1000:
                    await submit(batcher, 0)

            clients = [asyncio.create_task(flood()) for _ in range(16)]
            await until(lambda: len(served) > 20)
            before = len(served)
            await submit(batcher, 0, key=480)
            await asyncio.gather(*clients)
            assert served.index(480) - before <= 16 + 4

    asyncio.run(main())


def test_a_cancelled_request_never_reaches_the_engine() -> None:
    async def main() -> None:
        engine = Engine()
        async with batching(engine, limit=2) as batcher:
            answers = [submit(batcher, 0)]
            await until(lambda: engine.batches == [[0]])
            answers += [submit(batcher, item) for item in (1, 2, 3)]
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
        async with batching(engine, limit=2) as batcher:
            first, second = (submit(batcher, item) for item in (1, 2))
            await until(lambda: engine.batches == [[1, 2]])
            first.cancel()
            await asyncio.sleep(0)
            engine.go.set()
            assert (await second).result == 4

    asyncio.run(main())


def test_a_failing_call_fails_its_batch_and_no_other() -> None:
    async def run(_: int, items: list[int]) -> Sequence[int]:
        if items == [13]:
            raise ArithmeticError
        return items

    async def main() -> None:
        async with batching(run, limit=1) as batcher:
            results = await asyncio.gather(*(submit(batcher, item) for item in (1, 13, 2)), return_exceptions=True)
        assert isinstance(results[1], ArithmeticError)
        assert [result.result for result in (results[0], results[2]) if not isinstance(result, BaseException)] == [1, 2]

    asyncio.run(main())


def test_closing_finishes_what_was_submitted_and_takes_nothing_more() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = batching(engine, limit=1)
        async with batcher:
            answers = [submit(batcher, item) for item in range(3)]
            await until(lambda: engine.batches == [[0]])
            asyncio.get_running_loop().call_soon(engine.go.set)
        assert [(await answer).result for answer in answers] == [0, 2, 4]
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.submit(Place(lambda: None), 224, 4)

    asyncio.run(main())


def test_waiting_and_running_are_measured() -> None:
    async def main() -> None:
        engine = TimedEngine({224: 1, 384: 3})
        engine.go.set()
        async with batching(engine, limit=1, clock=engine.clock) as batcher:
            first, second = await asyncio.gather(*(submit(batcher, 0, key) for key in (224, 384)))
        assert (first.queue.seconds, first.inference.seconds) == (0, 1)
        assert (second.queue.seconds, second.inference.seconds) == (1, 3)

    asyncio.run(main())


def test_a_call_that_gives_too_few_results_fails_its_batch_and_no_other() -> None:
    async def run(_: int, items: list[int]) -> Sequence[int]:
        return [] if items == [13] else items

    async def main() -> None:
        async with batching(run, limit=1) as batcher:
            with pytest.raises(ValueError, match="zip"):
                await submit(batcher, 13)
            assert (await submit(batcher, 1)).result == 1

    asyncio.run(main())


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def main() -> None:
        engine = TimedEngine({224: 0.3})
        engine.go.set()
        async with batching(engine, limit=1, room=5, clock=engine.clock) as batcher:
            await submit(batcher, 0)  # an image takes 0.3 s, as is known now
            engine.go.clear()
            answers = [submit(batcher, 0)]
            await until(lambda: batcher.waiting == 0)  # an engine call has it
            answers += [submit(batcher, item) for item in range(5)]
            with pytest.raises(QueueFull, match="the queue is full: 5 images wait, 5 may") as refused:
                batcher.enter()
            assert refused.value.retry_after == 2  # 5 images of 0.3 s
            for answer in answers:
                answer.cancel()

    asyncio.run(main())


def test_when_to_come_back_depends_on_what_waits_and_not_on_what_was_slow_before() -> None:
    async def main() -> None:
        engine = TimedEngine({480: 2, 224: 0.1})
        engine.go.set()
        async with batching(engine, limit=1, room=5, clock=engine.clock) as batcher:
            await asyncio.gather(submit(batcher, 0, key=480), submit(batcher, 0))
            engine.go.clear()
            answers = [submit(batcher, 0)]
            await until(lambda: batcher.waiting == 0)
            answers += [submit(batcher, item) for item in range(5)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFull) as refused:
                batcher.enter()
            assert refused.value.retry_after == 1
            engine.go.set()
            await asyncio.gather(*answers)

    asyncio.run(main())


def test_several_images_get_places_together_or_none() -> None:
    async def main() -> None:
        async with batching(room=4) as batcher:
            places = batcher.enter(3)
            with pytest.raises(QueueFull):
                batcher.enter(2)
            assert batcher.waiting == 3
            for place in places:
                place.leave()
                place.leave()
            assert batcher.waiting == 0
            with pytest.raises(TooLarge, match="5 images are more than the queue holds, which is 4"):
                batcher.enter(5)

    asyncio.run(main())


def test_an_image_leaves_the_queue_when_an_engine_call_takes_it() -> None:
    async def main() -> None:
        engine = Engine()
        async with batching(engine, limit=2, room=2) as batcher:
            answers = [submit(batcher, item) for item in (1, 2)]
            assert batcher.waiting == 2
            await until(lambda: engine.batches == [[1, 2]])
            assert batcher.waiting == 0
            engine.go.set()
            await asyncio.gather(*answers)

    asyncio.run(main())


def test_what_cannot_be_answered_before_its_deadline_takes_no_batch_slot() -> None:
    async def main() -> None:
        engine = TimedEngine({224: 0.2})
        engine.go.set()
        async with batching(engine, limit=2, clock=engine.clock) as batcher:
            await submit(batcher, 0)  # an image takes 0.2 s, as is known now
            now = engine.clock()
            submitted = {item: submit(batcher, item, deadline=now + seconds) for item, seconds in DEADLINES.items()}
            await asyncio.wait(submitted.values())
        assert [type(submitted[item].exception()) for item in (1, 2, 3)] == [type(None), TooLate, type(None)]
        assert engine.batches == [[0], [1, 3]]

    asyncio.run(main())


DEADLINES = {1: 5.0, 2: 0.1, 3: 5.0}


def test_an_item_that_is_too_late_does_not_delay_the_next_one() -> None:
    async def main() -> None:
        async with batching(limit=1) as batcher:
            late = submit(batcher, 1, key=480, deadline=time.perf_counter() - 1)
            assert (await submit(batcher, 2)).result == 2
            with pytest.raises(TooLate):
                await late

    asyncio.run(main())


def test_no_call_begins_before_the_engine_is_ready() -> None:
    async def main() -> None:
        asked, up = asyncio.Event(), asyncio.Event()
        engine = Engine()
        engine.go.set()

        async def ready() -> None:
            asked.set()
            await up.wait()

        async with batching(engine, ready=ready) as batcher:
            answers = [submit(batcher, item) for item in (1, 2)]
            await asked.wait()
            answers[0].cancel()
            assert engine.batches == []
            up.set()
            assert (await answers[1]).result == 4
        assert engine.batches == [[2]]

    asyncio.run(main())


def test_calls_are_reported_with_their_size_and_time() -> None:
    async def main() -> None:
        calls: list[tuple[int, Interval]] = []
        async with batching(limit=2, on_batch=lambda size, span: calls.append((size, span))) as batcher:
            await asyncio.gather(*(submit(batcher, item) for item in range(3)))
        assert [size for size, _ in calls] == [2, 1]
        assert all(span.seconds > 0 for _, span in calls)

    asyncio.run(main())


def test_the_limit_is_that_of_the_key_and_limit_and_room_may_change() -> None:
    async def main() -> None:
        limits, rooms = {224: 1, 384: 3}, [4]
        engine = Engine()
        batcher = Batcher[int, int](engine, limit=lambda key: limits[key], room=lambda: rooms[0])
        async with batcher:
            answers = [submit(batcher, 0)]
            await until(lambda: engine.batches == [[0]])
            answers += [submit(batcher, item, key) for item, key in enumerate([384, 384, 224, 384], start=1)]
            with pytest.raises(QueueFull, match="4 images wait, 4 may"):
                batcher.enter()
            rooms[0] = 6
            answers += [submit(batcher, item) for item in (5, 6)]
            await asyncio.sleep(0)
            limits[224] = 2
            engine.go.set()
            await asyncio.gather(*answers)
        assert engine.batches == [[0], [1, 2, 4], [3, 5], [6]]

    asyncio.run(main())


def test_one_caller_that_holds_the_queue_does_not_shut_out_another() -> None:
    async def main() -> None:
        async with batching(room=16) as batcher:
            held = batcher.enter(16, "greedy")
            with pytest.raises(QueueFull):
                batcher.enter(1, "greedy")
            with pytest.raises(QueueFull):  # nobody in particular has no share of its own
                batcher.enter(1)
            with pytest.raises(QueueFull):
                batcher.enter(3, "other")
            others = batcher.enter(2, "other")
            with pytest.raises(QueueFull, match="18 images wait"):
                batcher.enter(1, "third")
            for place in (*held, *others, *others):
                place.leave()
            assert batcher.waiting == 0
            assert not batcher._taken

    asyncio.run(main())


def test_a_full_queue_says_when_to_come_again_by_what_is_slower() -> None:
    async def main() -> None:
        async with batching(room=2, before=lambda: 29.5) as batcher:
            batcher.enter(2)
            with pytest.raises(QueueFull) as refused:
                batcher.enter()
            assert refused.value.retry_after == 30

    asyncio.run(main())


def test_a_queue_is_full_when_what_waits_is_expected_to_take_too_long() -> None:
    async def main() -> None:
        engine = TimedEngine({224: 4.0})
        batching_of_one = batching(engine, limit=1, most_seconds=10.0, clock=engine.clock)
        async with batching_of_one as batcher:
            engine.go.set()
            await submit(batcher, 0)  # it took 4 s, by the engine's clock
            engine.go.clear()
            work = [submit(batcher, 1)]
            await until(lambda: len(engine.batches) == 2)  # the engine is busy
            work += [submit(batcher, item) for item in range(3)]  # 12 s
            await asyncio.sleep(0)
            with pytest.raises(QueueFull, match="the 3 images that wait take about 12 s, and 11 s may") as refused:
                batcher.check_room(caller="a")  # has an eighth more, 11.25 s
            assert refused.value.retry_after == 12
            engine.go.set()
            await asyncio.gather(*work)
            batcher.check_room(caller="a")

    asyncio.run(main())


def test_an_empty_queue_has_room_however_slow_the_engine_is() -> None:
    async def main() -> None:
        engine = TimedEngine({224: 1000.0})
        engine.go.set()
        async with batching(engine, most_seconds=1.0, before=lambda: 100.0, clock=engine.clock) as batcher:
            await submit(batcher, 0)
            batcher.check_room(count=5)

    asyncio.run(main())


def test_as_many_calls_are_on_their_way_as_the_engine_takes() -> None:
    async def main() -> None:
        engine, calls = Engine(), [2]
        async with batching(engine, limit=2, calls=lambda: calls[0]) as batcher:
            work = [submit(batcher, item) for item in range(9)]
            await until(lambda: len(engine.batches) == 2)
            await asyncio.sleep(0.01)
            assert engine.batches == [[0, 1], [2, 3]]  # and no third
            calls[0] = 1  # the engine was replaced by one that takes one call at a time
            engine.go.set()
            assert [answer.result for answer in await asyncio.gather(*work)] == [2 * item for item in range(9)]
            assert [item for batch in engine.batches for item in batch] == [*range(9)]

    asyncio.run(main())


def test_with_two_calls_on_their_way_a_failing_one_does_not_harm_the_other_and_closing_waits_for_both() -> None:
    async def main() -> None:
        lets: dict[int, asyncio.Event] = {1: asyncio.Event(), 2: asyncio.Event()}

        async def run(_: int, items: list[int]) -> Sequence[int]:
            await lets[items[0]].wait()
            if items == [1]:
                raise RuntimeError("the first")
            return items

        async with batching(run, limit=1, calls=lambda: 2) as batcher:
            first, second = submit(batcher, 1), submit(batcher, 2)
            await asyncio.sleep(0.01)
            lets[1].set()
            with pytest.raises(RuntimeError, match="the first"):
                await first
            asyncio.get_running_loop().call_later(0.05, lets[2].set)
        assert (await second).result == 2

    asyncio.run(main())


def test_overlapping_calls_are_not_counted_twice_in_the_expected_time() -> None:
    async def main() -> None:
        clock, lets = Clock(), [asyncio.Event(), asyncio.Event(), asyncio.Event()]

        async def run(_: int, items: list[int]) -> Sequence[int]:
            await lets[items[0]].wait()
            clock.now += 1.0  # of the engine, which computes for one call at a time
            return items

        async with batching(run, limit=1, calls=lambda: 2, clock=clock) as batcher:
            work = [submit(batcher, item) for item in (0, 1, 2)]
            await asyncio.sleep(0.01)
            for let in lets[:2]:
                let.set()
                await asyncio.sleep(0.01)
            lets[2].set()
            await asyncio.gather(*work)
            work = [submit(batcher, 0) for _ in range(5)]
            with pytest.raises(QueueFull) as refused:
                batcher.check_room(96)
            assert refused.value.retry_after == 5  # one second each: they overlap, and the engine is one
            await asyncio.gather(*work)

    asyncio.run(main())


def test_items_in_the_background_are_not_counted_and_refuse_nobody() -> None:
    async def main() -> None:
        engine, sizes = TimedEngine({224: 4.0}), []
        more: dict[str, Any] = {"clock": engine.clock, "on_batch": lambda size, _: sizes.append(size)}
        async with batching(engine, limit=1, room=2, most_seconds=1.0, **more) as batcher:
            engine.go.set()
            (place,) = batcher.enter(caller=BACKGROUND_CALLER)
            await batcher.submit(place, 224, 0)
            assert sizes == []
            engine.go.clear()
            places = [batcher.enter(caller=BACKGROUND_CALLER)[0] for _ in range(2)]
            copies = [asyncio.create_task(batcher.submit(place, 224, 1)) for place in places]
            await until(lambda: len(engine.batches) == 2)  # one waits
            assert (batcher.waiting, batcher.expected_seconds) == (0, 0.0)
            batcher.check_room(2, "a")
            real = [submit(batcher, item) for item in (2, 3)]
            with pytest.raises(QueueFull):
                batcher.enter(caller=BACKGROUND_CALLER)
            await asyncio.sleep(0)
            assert batcher.expected_seconds == 8.0
            engine.go.set()
            await asyncio.gather(*copies, *real)
            assert sizes == [1, 1]

    asyncio.run(main())
