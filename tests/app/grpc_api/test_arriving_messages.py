import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.errors import Overloaded, SlowClient
from app.grpc_api.arriving_messages import ArrivingMessages


def after(seconds: float) -> Callable[[], Awaitable[bytes]]:
    async def receive() -> bytes:
        await asyncio.sleep(seconds)
        return b"message"

    return receive


async def stalled() -> bytes:
    await asyncio.get_running_loop().create_future()
    return b""


def test_messages_beyond_the_limit_wait() -> None:
    async def run() -> None:
        arrivals = ArrivingMessages(2, seconds=10)
        arriving = 0
        most = 0

        async def receive() -> bytes:
            nonlocal arriving, most
            arriving += 1
            most = max(most, arriving)
            await asyncio.sleep(0.01)
            arriving -= 1
            return b"message"

        assert await asyncio.gather(*(arrivals.read(receive) for _ in range(9))) == [b"message"] * 9
        assert most == 2

    asyncio.run(run())


def test_a_message_that_stalls_ends_in_time() -> None:
    async def run() -> None:
        with pytest.raises(SlowClient, match="the message did not arrive within 1 s"):
            await ArrivingMessages(2, seconds=0.05).read(stalled)

    asyncio.run(run())


def test_one_that_stalls_gives_way_to_one_that_waits() -> None:
    async def run() -> None:
        arrivals = ArrivingMessages(1, seconds=60)
        stall = asyncio.create_task(arrivals.read(stalled))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await arrivals.read(after(0)) == b"message"
        with pytest.raises(Overloaded, match="slow while others waited"):
            await stall

    asyncio.run(run())


def test_one_that_arrives_soon_is_not_cut_off_for_those_that_wait() -> None:
    async def run() -> None:
        arrivals = ArrivingMessages(1, seconds=60)
        reads = [asyncio.create_task(arrivals.read(after(0.2))) for _ in range(3)]
        assert await asyncio.gather(*reads) == [b"message"] * 3

    asyncio.run(run())


def test_one_that_is_cancelled_leaves_its_place() -> None:
    async def run() -> None:
        arrivals = ArrivingMessages(1, seconds=60)
        stall = asyncio.create_task(arrivals.read(stalled))
        await asyncio.sleep(0)
        stall.cancel()
        assert await arrivals.read(after(0)) == b"message"

    asyncio.run(run())
