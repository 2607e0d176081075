"""Memory that two processes share: what one puts there the other reads in place, without a copy."""

import mmap
import os
import tempfile
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray


class SharedBuffer:
    """Holds one array of bytes at a time. It is made in one process; the other is given its `file` and opens that.

    It takes as much memory as the largest array that was put there. `close` it after use.
    """

    def __init__(self, file: int | None = None) -> None:
        self.file = _new_file() if file is None else file
        self._memory: mmap.mmap | None = None

    def array(self, *shape: int) -> NDArray[np.uint8]:
        """An array of that shape at the tray's start. What the other process put there is in it."""
        size = int(np.prod(shape))
        if not size:
            return np.empty(shape, np.uint8)
        if self._memory is None or len(self._memory) < size:
            if os.fstat(self.file).st_size < size:
                os.ftruncate(self.file, size)
            self._memory = mmap.mmap(self.file, 0)  # one before it lives as long as arrays in it do
        return np.frombuffer(self._memory, np.uint8, size).reshape(shape)

    def close(self) -> None:
        """Let go of the file; arrays that are there stay. Again is a no-op."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _new_file() -> int:
    with suppress(AttributeError, OSError):  # systems without memory files, or that forbid them (seccomp)
        return os.memfd_create("crossvit", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
