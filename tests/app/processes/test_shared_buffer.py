import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from app.processes.shared_buffer import SharedBuffer

OTHER = """
import sys
from app.processes.shared_buffer import SharedBuffer
images = SharedBuffer(int(sys.argv[1])).array(2, 3, 4)
print(int(images.sum()))
images[...] += 1
"""


def test_two_processes_read_and_change_the_same_array_in_place() -> None:
    shared = SharedBuffer()
    images = shared.array(2, 3, 4)
    images[...] = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    command = [sys.executable, "-c", OTHER, str(shared.file)]
    found = subprocess.run(command, pass_fds=[shared.file], capture_output=True, text=True, check=True)
    assert int(found.stdout) == sum(range(24))
    assert images.sum() == sum(range(24)) + 24
    shared.close()


def test_it_grows_and_arrays_that_were_handed_out_stay() -> None:
    shared = SharedBuffer()
    small = shared.array(1, 10)
    small[...] = 7
    large = shared.array(100, 1000)
    large[1:] = 8
    assert (large[0, :10] == 7).all()
    small[...] = 9  # the same memory
    assert (large[0, :10] == 9).all()
    reader = SharedBuffer(shared.file)
    assert (reader.array(1, 5) == 9).all()
    assert (reader.array(100, 1000)[1:] == 8).all()


def test_where_memory_files_are_forbidden_a_temporary_file_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    shared = SharedBuffer()
    shared.array(2, 3)[...] = 7
    assert SharedBuffer(shared.file).array(2, 3).sum() == 42
    shared.close()


def test_an_empty_array_needs_no_memory() -> None:
    shared = SharedBuffer()
    assert shared.array(0, 224, 224, 3).shape == (0, 224, 224, 3)
    shared.close()
    shared.close()
