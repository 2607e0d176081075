import asyncio
import math
import time

from app.server.refusal_pacer import TICK_SECONDS, RefusalPacer


def waits(pacer: RefusalPacer, count: int) -> list[tuple[int, float]]:
    """The turns of `count` refusals that come at once: the number of each, and the seconds that it waited."""
    taken: list[tuple[int, float]] = []

    async def main() -> None:
        began, last = time.perf_counter(), asyncio.Event()
        for number in range(count):
            pacer.schedule(lambda number=number: taken.append((number, time.perf_counter() - began)))  # type: ignore[misc]
        pacer.schedule(last.set)
        await last.wait()

    asyncio.run(main())
    return taken


def test_a_lone_refusal_does_not_wait() -> None:
    ((_, seconds),) = waits(RefusalPacer(rate=1), 1)
    assert seconds < 0.03


def test_refusals_are_sent_in_their_order_and_no_faster_than_the_rate() -> None:
    turns = waits(RefusalPacer(rate=100), 40)
    assert [number for number, _ in turns] == list(range(40))
    assert all(seconds >= 0.01 * number - 1e-3 for number, seconds in turns)
    assert turns[-1][1] < 0.4 + TICK_SECONDS + 0.2


def test_no_refusal_waits_longer_than_the_longest_wait() -> None:
    turns = waits(RefusalPacer(rate=10, longest=0.3), 200)
    assert [number for number, _ in turns] == list(range(200))
    assert max(seconds for _, seconds in turns) < 0.3 + TICK_SECONDS + 0.2


def test_one_that_comes_later_does_not_overtake() -> None:
    taken: list[int] = []

    async def main() -> None:
        pacer = RefusalPacer(rate=1000)
        for number in range(3):
            pacer.schedule(lambda number=number: taken.append(number))  # type: ignore[misc]
        await asyncio.sleep(0.004)  # all three turns have come, and wait for the tick
        pacer.schedule(lambda: taken.append(3))
        await asyncio.sleep(3 * TICK_SECONDS)

    asyncio.run(main())
    assert taken == [0, 1, 2, 3]


def test_an_infinite_rate_never_waits() -> None:
    assert max(seconds for _, seconds in waits(RefusalPacer(rate=math.inf), 100)) < 0.03
