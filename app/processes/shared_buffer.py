"""Memory shared by two processes: one writes an array, the other reads it in place, without a copy."""

import mmap
import os
import tempfile
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray


class SharedBuffer:
    """Holds one array of bytes at a time, and takes as much memory as the largest so far. Close it after use.

    Args:
        file: the `file` of a buffer that another process has made; None makes a new buffer.
    """

    def __init__(self, file: int | None = None) -> None:
        self.file = _new_file() if file is None else file
        self._memory: mmap.mmap | None = None

    def array(self, *shape: int) -> NDArray[np.uint8]:
        """An array of that shape at the buffer's start, with the bytes that either process has written there."""
        size = int(np.prod(shape))
        if not size:
            return np.empty(shape, np.uint8)
        if self._memory is None or len(self._memory) < size:
            if os.fstat(self.file).st_size < size:
                os.ftruncate(self.file, size)
            self._memory = mmap.mmap(self.file, 0)  # the one before it lives as long as arrays in it do
        return np.frombuffer(self._memory, np.uint8, size).reshape(shape)

    def close(self) -> None:
        """Close the file; existing arrays stay valid. A second call does nothing."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _new_file() -> int:
    with suppress(AttributeError, OSError):  # systems without memory files, or that forbid them (seccomp)
        return os.memfd_create("crossvit", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
