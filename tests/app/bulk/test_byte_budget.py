import asyncio

from app.bulk.byte_budget import ByteBudget


def test_no_more_than_the_limit_is_lent_and_all_get_their_turn() -> None:
    async def held_at_once() -> tuple[int, int]:
        budget, held, most, done = ByteBudget(100), 0, 0, 0

        async def work(size: int) -> None:
            nonlocal held, most, done
            taken = await budget.take(size)
            held += taken
            most = max(most, held)
            await asyncio.sleep(0)
            held -= taken
            budget.give_back(taken)
            done += 1

        async with asyncio.timeout(10):
            await asyncio.gather(*(work(size) for size in [60, 30, 30, 1000, 1, 99] * 20))
        return most, done

    most, done = asyncio.run(held_at_once())
    assert most == 100  # the 1000 got all of it
    assert done == 120
