"""Where bodies and pixels cross between the HTTP process, one decoder and the engines, without a copy on their way."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import TooLarge
from app.processes.shared_memory import BlockMemory, SharedBlock

T = TypeVar("T")


class PixelLocation(NamedTuple):
    """Where an image's pixels begin: the number of the decoder's memory, and the offset there in bytes."""

    memory: int
    offset: int


class PixelBlock:
    """Decoded images (count, side, side, 3), uint8, in a decoder's memory. Release it once no engine needs them.

    Who else needs them calls `keep`, and releases it too.
    """

    def __init__(self, owner: "DecoderMemory", block: SharedBlock, shape: Sequence[int]) -> None:
        self._owner = owner
        self._block = block
        self.shape = tuple(shape)
        self._holders = 1

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """In place."""
        return self._owner.array(self._block, self.shape)

    @property
    def locations(self) -> list[PixelLocation]:
        """One for each image."""
        images, *image = self.shape
        offsets = range(self._block.offset, self._block.offset + math.prod(self.shape), math.prod(image))
        return [PixelLocation(self._owner.number, offset) for offset in offsets[:images]]

    def keep(self) -> None:
        """Need the pixels until another `release`."""
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if self._holders <= 0:
            self._block.release()


async def claimed(answer: asyncio.Future[T], release: Callable[[T], None]) -> T:
    """The result of `answer`; releases it if the caller is cancelled just after it came."""
    try:
        return await answer
    except asyncio.CancelledError:
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            release(answer.result())
        raise


class DecoderMemory:
    """The memory of the decoders at one place in the pool, one after the other.

    Only the decoder, and the HTTP process, write there; engines read. So a decoder that an image has taken over can
    change pixels that it has decoded, and no others.

    Args:
        number: of the place.
        size: in bytes.
    """

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self._released = asyncio.Event()
        self._blocks = BlockMemory(size, self._released.set)
        self.file = self._blocks.memory.file

    async def take(self, size: int) -> SharedBlock:
        """A block, as soon as there is one; TooLarge if there can be none."""
        if not self._blocks.fits(size):
            raise TooLarge(f"{size:,} bytes are more than a decoder's memory, which is {self._blocks.memory.size:,}")
        while (block := self._blocks.take(size)) is None:
            self._released.clear()
            await self._released.wait()
        return block

    def write(self, offset: int, content: bytes) -> None:
        self._blocks.memory.write(offset, content)

    def array(self, block: SharedBlock, shape: Sequence[int]) -> NDArray[np.uint8]:
        """What begins `block`, in place."""
        return self._blocks.memory.array(block.offset, *shape)

    def close(self) -> None:
        self._blocks.close()
