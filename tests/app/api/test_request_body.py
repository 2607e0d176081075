import asyncio
from collections.abc import Sequence

import pytest
from starlette.requests import Request
from starlette.types import Message

from app.api.request_body import BodyLimits
from app.errors import Overloaded, SlowClient
from tests.support.waiting import until


async def sent(limits: BodyLimits, pieces: Sequence[bytes], *, whole: bool = True) -> bytes:
    """The body that arrives in these pieces, all at once; if it is not the whole of it, what reads it waits."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if not whole:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": b"", "more_body": False}

    with limits.open_body(Request({"type": "http", "headers": []}, receive)) as body:
        return await body.whole()


def test_one_stalled_body_is_ended_where_one_is_enough() -> None:
    async def main() -> None:
        limits = BodyLimits(max_bytes=100, max_total_bytes=100, seconds=5)
        stalled = [asyncio.create_task(sent(limits, [bytes(48)], whole=False)) for _ in range(2)]
        await until(lambda: limits.held_bytes == 96)
        assert await sent(limits, 5 * [b"12345"]) == 5 * b"12345"
        with pytest.raises(SlowClient, match="make room for others"):
            await stalled[0]
        await until(lambda: limits.held_bytes == 48)
        assert not stalled[1].done()
        stalled[1].cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        assert limits.held_bytes == 0

    asyncio.run(main())


def test_the_body_that_holds_most_makes_room_and_no_small_one() -> None:
    async def main() -> None:
        limits = BodyLimits(max_bytes=100, max_total_bytes=100, seconds=5)
        sizes = (1, 30, 50, 5)  # the oldest holds the least
        stalled = [asyncio.create_task(sent(limits, [bytes(size)], whole=False)) for size in sizes]
        await until(lambda: limits.held_bytes == 86)
        assert await sent(limits, 3 * [bytes(20)]) == bytes(60)
        with pytest.raises(SlowClient, match="make room for others"):
            await stalled[2]
        await until(lambda: limits.held_bytes == 36)
        assert [task.done() for task in stalled] == [False, False, True, False]
        assert await sent(limits, 4 * [bytes(20)]) == bytes(80)
        await until(lambda: stalled[1].done())
        assert [task.done() for task in stalled] == [False, True, True, False]
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        assert limits.held_bytes == 0

    asyncio.run(main())


def test_no_body_is_ended_where_that_would_not_make_room() -> None:
    async def main() -> None:
        limits = BodyLimits(max_bytes=100, max_total_bytes=100, seconds=5)
        limits.held_bytes = 80  # by those that have arrived
        paused = asyncio.create_task(sent(limits, [bytes(5)], whole=False))
        await until(lambda: limits.held_bytes == 85)
        with pytest.raises(Overloaded):
            await sent(limits, [bytes(30)])
        await asyncio.sleep(0.01)  # some turns of the event loop, in which it would end
        assert not paused.done()
        assert limits.held_bytes == 85
        paused.cancel()
        await asyncio.gather(paused, return_exceptions=True)

    asyncio.run(main())


def test_a_body_that_has_timed_out_is_not_evicted() -> None:
    """Its timeout has expired, but its task has not run since."""

    async def main() -> None:
        limits = BodyLimits(max_bytes=100, max_total_bytes=100, seconds=0.05)
        stalled = asyncio.create_task(sent(limits, [bytes(90)], whole=False))
        await until(lambda: limits.held_bytes == 90)
        timeout = limits.arriving[0].timeout
        while not timeout.expired():  # noqa: ASYNC110, it stays so for one round of the loop
            await asyncio.sleep(0)
        assert not stalled.done()
        assert await sent(limits, [b"12345"] * 3) == b"12345" * 3
        with pytest.raises(SlowClient, match="did not arrive within"):
            await stalled
        assert limits.held_bytes == 0

    asyncio.run(main())


def test_an_evicted_body_receives_no_more() -> None:
    async def main() -> None:
        limits = BodyLimits(max_bytes=100, max_total_bytes=100, seconds=5)

        async def receive() -> Message:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": bytes(30), "more_body": True}

        with limits.open_body(Request({"type": "http", "headers": []}, receive)) as body:
            reading = asyncio.create_task(body.whole())
            while not body.held_bytes:  # noqa: ASYNC110
                await asyncio.sleep(0)
            body.evict()
            with pytest.raises(SlowClient, match="make room"):
                await reading
            assert body.held_bytes == 0
        assert limits.held_bytes == 0

    asyncio.run(main())


def test_the_oldest_itself_is_refused() -> None:
    async def main() -> None:
        limits = BodyLimits(max_bytes=100, max_total_bytes=100, seconds=5)
        limits.held_bytes = 80  # by those that have arrived
        with pytest.raises(Overloaded):
            await sent(limits, [bytes(30)])
        assert limits.held_bytes == 80

    asyncio.run(main())
