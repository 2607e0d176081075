"""A bound on the bytes that are in memory at once."""

import asyncio


class ByteBudget:
    """Lends up to `limit` bytes; what is larger than that gets all of them, alone."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._returned = asyncio.Event()

    async def take(self, size: int) -> int:
        """Wait until `size` bytes are free, and take them; what was taken is to be given back."""
        taken = min(size, self._limit)
        while self._free < taken:
            self._returned.clear()
            await self._returned.wait()
        self._free -= taken
        return taken

    def give_back(self, taken: int) -> None:
        self._free += taken
        self._returned.set()
