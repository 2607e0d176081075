"""The two ends of a control socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.errors import RateLimited
from app.instances.control_channel import ChannelClosed, ControlChannel, Method


@asynccontextmanager
async def channels(**methods: Method) -> AsyncIterator[tuple[ControlChannel, ControlChannel]]:
    """An end that asks, and an end that has `methods`."""
    asking, answering = ControlChannel({}), ControlChannel(methods)
    runs = [
        asyncio.create_task(end.run(one)) for end, one in zip((asking, answering), socket.socketpair(), strict=True)
    ]
    yield asking, answering
    asking.close()
    await asyncio.gather(*runs)


def test_questions_are_answered_out_of_order_and_errors_are_raised_at_the_other_end() -> None:
    async def echo(value: object, seconds: float) -> object:
        await asyncio.sleep(seconds)
        return value

    async def refuse() -> None:
        raise RateLimited("too many", retry_after=7)

    async def main() -> None:
        async with channels(echo=echo, refuse=refuse) as (asking, _):
            slow = asyncio.create_task(asking.ask("echo", "slow", 0.1))
            assert await asking.ask("echo", {"a": [1, None]}, 0) == {"a": [1, None]}
            with pytest.raises(RateLimited, match="too many") as caught:
                await asking.ask("refuse")
            assert caught.value.retry_after == 7
            assert await slow == "slow"

    asyncio.run(main())


def test_an_answer_that_is_late_is_dropped_and_one_that_never_comes_ends_with_the_channel() -> None:
    async def wait(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def main() -> None:
        async with channels(wait=wait) as (asking, answering):
            with pytest.raises(TimeoutError):
                await asking.ask("wait", 0.05, seconds=0.01)
            assert await asking.ask("wait", 0.06) == 0.06
            waiting = asyncio.create_task(asking.ask("wait", 60))
            await asyncio.sleep(0.01)
            answering.close()
            with pytest.raises(ChannelClosed):
                await waiting
            with pytest.raises(ChannelClosed):
                await asking.ask("wait", 0)

    asyncio.run(main())
