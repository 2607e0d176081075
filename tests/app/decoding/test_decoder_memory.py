import asyncio

import numpy as np
import pytest

from app.decoding.decoder_memory import DecoderMemory, PixelBlock, PixelLocation, claimed
from app.errors import TooLarge
from app.processes.shared_memory import SharedBlock

PAGE = 4096


def test_a_full_memory_makes_callers_wait_until_enough_is_released() -> None:
    async def main() -> None:
        memory = DecoderMemory(0, 3 * PAGE)
        blocks = [await memory.take(PAGE) for _ in range(3)]
        waiting = [asyncio.create_task(memory.take(2 * PAGE)), asyncio.create_task(memory.take(PAGE))]
        blocks[0].release()
        await asyncio.sleep(0.01)
        assert [task.done() for task in waiting] == [False, True]  # the gap is too small for the first
        blocks[2].release()
        await asyncio.sleep(0.01)
        assert not waiting[0].done()  # there are two gaps of one page, apart
        blocks[1].release()
        assert (await waiting[0]).size == 2 * PAGE
        memory.close()

    asyncio.run(main())


def test_a_caller_that_is_cancelled_while_it_waits_takes_nothing() -> None:
    async def main() -> None:
        memory = DecoderMemory(0, PAGE)
        block = await memory.take(1)
        waiting = asyncio.create_task(memory.take(1))
        await asyncio.sleep(0)
        waiting.cancel()
        block.release()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        await memory.take(PAGE)
        memory.close()

    asyncio.run(main())


def test_what_can_never_fit_is_too_large() -> None:
    async def main() -> None:
        memory = DecoderMemory(0, PAGE)
        with pytest.raises(TooLarge, match="4,097 bytes are more than a decoder's memory, which is 4,096"):
            await memory.take(PAGE + 1)
        memory.close()

    asyncio.run(main())


def test_locations_are_where_each_image_begins() -> None:
    async def main() -> None:
        memory = DecoderMemory(3, 100 * PAGE)
        await memory.take(PAGE)
        images = PixelBlock(memory, await memory.take(3 * 4 * 4 * 3), (3, 4, 4, 3))
        images.pixels[...] = np.arange(3)[:, None, None, None]
        assert images.locations == [PixelLocation(3, PAGE + 48 * index) for index in range(3)]
        whole = memory._blocks.memory
        assert [whole.array(offset, 48).tolist() for _, offset in images.locations] == [
            [index] * 48 for index in range(3)
        ]
        memory.close()

    asyncio.run(main())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_result_that_its_caller_no_longer_takes_is_released(when: str) -> None:
    async def main() -> None:
        memory = DecoderMemory(0, PAGE)
        answer: asyncio.Future[SharedBlock] = asyncio.get_running_loop().create_future()
        caller = asyncio.create_task(claimed(answer, lambda block: block.release()))
        await asyncio.sleep(0)
        if when == "after":
            answer.set_result(await memory.take(PAGE))
        caller.cancel()  # in the moment after the answer has come, or before that
        await asyncio.gather(caller, return_exceptions=True)
        assert caller.cancelled()
        assert answer.cancelled() == (when == "before")
        await asyncio.wait_for(memory.take(PAGE), 5)
        memory.close()

    asyncio.run(main())
