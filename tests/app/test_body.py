import asyncio
from collections.abc import Sequence

import pytest
from starlette.requests import Request
from starlette.types import Message

from app.body import Bodies
from app.errors import Overloaded, SlowClient


async def sent(bodies: Bodies, pieces: Sequence[bytes], *, whole: bool = True) -> bytes:
    """The body that arrives in these pieces, all at once; if it is not the whole of it, what reads it waits."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if not whole:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": b"", "more_body": False}

    with bodies.holding(Request({"type": "http", "headers": []}, receive)) as body:
        return await body.whole()


def test_one_stalled_body_is_ended_where_one_is_enough() -> None:
    async def main() -> None:
        bodies = Bodies(max_bytes=100, all_bytes=100, seconds=5)
        stalled = [asyncio.create_task(sent(bodies, [bytes(48)], whole=False)) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert await sent(bodies, 5 * [b"12345"]) == 5 * b"12345"
        with pytest.raises(SlowClient, match="make room for others"):
            await stalled[0]
        await asyncio.sleep(0.01)
        assert not stalled[1].done()
        assert bodies.held == 48
        stalled[1].cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        assert bodies.held == 0

    asyncio.run(main())


def test_the_oldest_itself_is_refused() -> None:
    async def main() -> None:
        bodies = Bodies(max_bytes=100, all_bytes=100, seconds=5)
        bodies.held = 80  # by those that have arrived
        with pytest.raises(Overloaded):
            await sent(bodies, [bytes(30)])
        assert bodies.held == 80

    asyncio.run(main())
