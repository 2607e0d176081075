import asyncio

import pytest

from app.errors import NotReady
from app.grpc_api.idle_calls import IdleCalls


def test_a_stop_ends_those_that_wait_and_lets_the_others_have_their_time() -> None:
    async def run() -> None:
        idle = IdleCalls()
        endless = asyncio.create_task(idle.wait(asyncio.sleep(60)))
        soon = asyncio.create_task(idle.wait(asyncio.sleep(0.1, "message"), seconds=5))
        await asyncio.sleep(0.01)
        idle.end_all()
        with pytest.raises(NotReady, match="stopping: connect again"):
            await asyncio.wait_for(endless, 1)
        assert await soon == "message"

    asyncio.run(run())


def test_a_timeout_of_its_own_is_not_taken_for_a_stop() -> None:
    async def late() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        asyncio.run(IdleCalls().wait(late()))
