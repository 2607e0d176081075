import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.processes.shared_memory import BlockMemory, SharedBlock, SharedMemory

PAGE = mmap.PAGESIZE
MEGABYTE = 1 << 20
OTHER = """
import sys
from app.processes.shared_memory import SharedMemory
images = SharedMemory(file=int(sys.argv[1])).array(100, 2, 3, 4)
print(int(images.sum()))
images[...] += 1
"""


def resident_bytes(memory: SharedMemory) -> int:
    """What the file takes of the machine's memory."""
    return os.fstat(memory.file).st_blocks * 512


def test_two_processes_read_and_change_the_same_array_in_place() -> None:
    shared = SharedMemory(PAGE)
    images = shared.array(100, 2, 3, 4)
    images[...] = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    command = [sys.executable, "-c", OTHER, str(shared.file)]
    found = subprocess.run(command, pass_fds=[shared.file], capture_output=True, text=True, check=True)
    assert int(found.stdout) == sum(range(24))
    assert images.sum() == sum(range(24)) + 24
    shared.close()


def test_bytes_are_written_where_arrays_read_them() -> None:
    shared = SharedMemory(PAGE)
    shared.write(5, b"abc")
    assert shared.array(4, 5).tobytes() == b"\0abc\0"
    shared.close()


def test_arrays_stay_after_it_is_closed() -> None:
    shared = SharedMemory(PAGE)
    array = shared.array(0, 10)
    shared.close()
    shared.close()
    array[...] = 7
    assert array.sum() == 70


def test_where_memory_files_are_forbidden_a_temporary_file_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    shared = SharedMemory(4 * MEGABYTE)
    shared.array(0, 2, 3)[...] = 7
    assert SharedMemory(file=shared.file).array(0, 2, 3).sum() == 42
    shared.discard(0, 4 * MEGABYTE)
    shared.close()


def test_memory_that_was_never_written_takes_none() -> None:
    shared = SharedMemory(1 << 30)
    assert resident_bytes(shared) == 0
    shared.array(1 << 29, PAGE)[...] = 1
    assert resident_bytes(shared) == PAGE
    shared.close()


def test_no_process_that_has_the_file_can_change_its_size_or_its_seals() -> None:
    """One that cut it short would end the others by SIGBUS when they read there."""
    shared = SharedMemory(16 * PAGE)
    for size in (0, PAGE, 17 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(shared.file, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(shared.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert shared.array(15 * PAGE, PAGE).sum() == 0
    shared.close()


def test_punching_a_hole_leaves_zeros_and_ends_no_reader() -> None:
    """A decoder may do that to its own memory."""
    shared = SharedMemory(4 * PAGE)
    reader = SharedMemory(file=os.dup(shared.file))
    shared.array(0, 4 * PAGE)[...] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(shared._map))
    assert ctypes.CDLL(None).madvise(ctypes.c_void_p(address), 4 * PAGE, mmap.MADV_REMOVE) == 0
    assert reader.array(0, 4 * PAGE).sum() == 0
    reader.close()
    shared.close()


# Blocks

PAGES = 12


def pages_of(block: SharedBlock) -> set[int]:
    assert block.offset % PAGE == block.size % PAGE == 0
    return set(range(block.offset // PAGE, (block.offset + block.size) // PAGE))


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(1, 5 * PAGE), st.floats(0, 1, exclude_max=True)), max_size=60))
def test_blocks_never_overlap_and_whatever_fits_into_a_gap_is_given_the_lowest(steps: list[int | float]) -> None:
    """A step is the size of a block to take, or which of those that were taken to release."""
    releases = 0

    def released() -> None:
        nonlocal releases
        releases += 1

    memory, held, expected = BlockMemory(PAGES * PAGE, released), list[SharedBlock](), 0
    for step in steps:
        used = set().union(*map(pages_of, held))
        if isinstance(step, float):
            if held:
                held.pop(int(step * len(held))).release()
                expected += 1
            continue
        count = -(-step // PAGE)
        fits = [first for first in range(PAGES - count + 1) if not used & set(range(first, first + count))]
        block = memory.take(step)
        if block is None:
            assert fits == []
        else:
            assert pages_of(block) == set(range(fits[0], fits[0] + count))
            held.append(block)
    for block in held:
        block.release()
    assert releases == expected + len(held)
    assert memory._gaps == [(0, PAGES * PAGE)]  # they have merged
    memory.close()


def test_releasing_a_block_twice_is_releasing_it_once() -> None:
    releases: list[None] = []
    memory = BlockMemory(2 * PAGE, lambda: releases.append(None))
    first = memory.take(PAGE)
    assert first is not None
    first.release()
    second = memory.take(PAGE)
    first.release()  # not the other one's
    third = memory.take(PAGE)
    assert second is not None
    assert third is not None
    assert second.offset != third.offset
    assert len(releases) == 1
    memory.close()


def test_a_full_memory_gives_none_and_knows_what_never_fits() -> None:
    memory = BlockMemory(4 * PAGE - 1)  # whole pages
    blocks = [memory.take(1), memory.take(0), memory.take(PAGE), memory.take(PAGE - 1)]
    assert None not in blocks
    assert memory.take(1) is None
    assert (memory.fits(4 * PAGE), memory.fits(4 * PAGE + 1)) == (True, False)
    memory.close()


def test_a_large_block_gives_its_memory_back_when_it_is_released_and_small_ones_are_used_again() -> None:
    memory = BlockMemory(64 * MEGABYTE)
    small, large, kept = memory.take(MEGABYTE), memory.take(32 * MEGABYTE), memory.take(MEGABYTE)
    assert small is not None
    assert large is not None
    assert kept is not None
    for block in (small, large, kept):
        memory.memory.array(block.offset, block.size)[...] = 7
    assert resident_bytes(memory.memory) == 34 * MEGABYTE
    large.release()
    small.release()
    assert resident_bytes(memory.memory) == 2 * MEGABYTE
    assert (memory.memory.array(kept.offset, kept.size) == 7).all()
    again = memory.take(32 * MEGABYTE)
    assert again is not None
    assert memory.memory.array(again.offset, again.size).max() <= 7
    memory.close()


def test_a_shortened_block_gives_the_rest_back_and_is_released_as_what_it_is() -> None:
    memory = BlockMemory(4 * mmap.PAGESIZE)
    block = memory.take(3 * mmap.PAGESIZE)
    assert block is not None
    block.shorten(10)
    assert block.size == mmap.PAGESIZE
    other = memory.take(3 * mmap.PAGESIZE)
    assert other is not None
    assert other.offset == mmap.PAGESIZE
    block.shorten(mmap.PAGESIZE)  # nothing more to give
    block.release()
    block.shorten(1)
    other.release()
    whole = memory.take(4 * mmap.PAGESIZE)
    assert whole is not None
    memory.close()
