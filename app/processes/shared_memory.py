"""Memory that processes share: one writes bytes where another reads them in place, without a copy."""

import bisect
import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

_PAGE = mmap.PAGESIZE
_KEPT_BYTES = 1 << 20  # a released block that is larger gives its memory back to the system


class SharedMemory:
    """A file without a name, mapped by every process that has it open. Pages that were never written take no memory.

    Args:
        size: in bytes, of a new file.
        file: an open file that another process made; it stays open for its owner.
    """

    def __init__(self, size: int = 0, *, file: int | None = None) -> None:
        self.file = _new_file(size) if file is None else file
        self.size = os.fstat(self.file).st_size
        self._map = mmap.mmap(self.file, self.size)
        self.bytes = np.frombuffer(self._map, np.uint8)

    def array(self, offset: int, *shape: int) -> NDArray[np.uint8]:
        """The bytes from `offset` on, in place."""
        return self.bytes[offset : offset + math.prod(shape)].reshape(shape)

    def write(self, offset: int, content: bytes) -> None:
        self._map[offset : offset + len(content)] = content

    def discard(self, offset: int, size: int) -> None:
        """Give the memory of these pages back to the system; they read as zeros then."""
        with suppress(OSError, AttributeError):  # systems that cannot keep it
            self._map.madvise(mmap.MADV_REMOVE, offset, size)

    def close(self) -> None:
        """Close the file; existing arrays stay valid. A second call does nothing."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


class SharedBlock:
    """A part of a BlockMemory. Releasing it twice is releasing it once."""

    def __init__(self, owner: "BlockMemory", offset: int, size: int) -> None:
        self._owner: BlockMemory | None = owner
        self.offset = offset
        self.size = size

    def shorten(self, size: int) -> None:
        """Keep the first `size` bytes only."""
        kept = _whole_pages(max(1, size))
        if self._owner is not None and kept < self.size:
            self.size, rest = kept, self.size - kept
            self._owner.give_back(self.offset + kept, rest)

    def release(self) -> None:
        """Give it back; what was written there stays until another block is made of it."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.give_back(self.offset, self.size)


class BlockMemory:
    """Shared memory that is handed out in blocks of whole pages, the lowest first.

    Args:
        size: of the memory in bytes.
        on_release: is called after a block was released.
    """

    def __init__(self, size: int, on_release: Callable[[], None] = lambda: None) -> None:
        self.memory = SharedMemory(_whole_pages(size))
        self._on_release = on_release
        self._gaps = [(0, self.memory.size)]  # offset and size of what is free, by offset

    def take(self, size: int) -> SharedBlock | None:
        """A block of at least `size` bytes, None while no gap is large enough."""
        size = _whole_pages(max(1, size))
        for index, (offset, free) in enumerate(self._gaps):
            if free >= size:
                self._gaps[index : index + 1] = [(offset + size, free - size)] if free > size else []
                return SharedBlock(self, offset, size)
        return None

    def give_back(self, offset: int, size: int) -> None:
        """Make a gap of the block that was there; SharedBlock.release calls it."""
        if size > _KEPT_BYTES:
            self.memory.discard(offset, size)
        index = bisect.bisect(self._gaps, (offset, size))
        if index < len(self._gaps) and self._gaps[index][0] == offset + size:
            size += self._gaps.pop(index)[1]
        if index and sum(self._gaps[index - 1]) == offset:
            offset, size = self._gaps[index - 1][0], size + self._gaps[index - 1][1]
            self._gaps.pop(index - 1)
            index -= 1
        self._gaps.insert(index, (offset, size))
        self._on_release()

    def fits(self, size: int) -> bool:
        """Whether a block of `size` bytes can be had once all others are released."""
        return _whole_pages(max(1, size)) <= self.memory.size

    def close(self) -> None:
        self.memory.close()


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _new_file(size: int) -> int:
    try:
        file = os.memfd_create("crossvit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # systems without memory files, or that forbid them (seccomp)
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    with suppress(AttributeError, OSError):  # a file of another kind
        # A process that cut it short would end the others when they read there.
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return file
