"""What a decoder that an image has taken over can reach: in real sealed processes, seen from outside."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from app.decoding.image_decoding import decode
from app.decoding.pool import DecoderPool
from app.processes.channel import Limits
from app.processes.shared_memory import SharedMemory
from app.processes.worker import Worker, WorkerDied
from model.preprocess import Pixels
from model.spec import Preprocessing
from tests.support.pictures import encoded, scene
from tests.support.processes import workers

STEPS = Preprocessing(256, 224)
PNG = encoded(scene(300, 280))
PIXELS = decode(PNG, STEPS, 10**6)
RESULT = 1 << 20  # where it writes pixels


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@contextmanager
def intruder() -> Iterator[tuple[Worker, SharedMemory]]:
    """A decoder that is taken over, and its memory."""
    memory = SharedMemory(4 << 20)
    worker = Worker(
        "intruder",
        "tests.support.worker_targets:Intruder",
        [10**6, False],
        seconds=60,
        limits=Limits(memory_bytes=1 << 30, sealed=True),
        files=[memory.file],
    )
    try:
        yield worker, memory
    finally:
        worker.kill()
        memory.close()


def pixels(memory: SharedMemory) -> Pixels:
    return memory.array(RESULT, *PIXELS.shape)


def decode_into(worker: Worker, memory: SharedMemory) -> None:
    memory.write(0, PNG)
    worker.call("image", [STEPS.resize, STEPS.crop, 0, len(PNG), RESULT], [], seconds=30)
    assert np.array_equal(pixels(memory), PIXELS)


def mapped_memories(pid: int) -> set[int]:
    """The inodes of the memory files that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {int(line.split()[4]) for line in lines if "memfd:crossvit" in line}


def opened_memories(pid: int) -> set[int]:
    """The inodes of the memory files that a process has open: a map of Python's keeps its file open."""
    files = Path(f"/proc/{pid}/fd").iterdir()
    return {file.stat().st_ino for file in files if "memfd:crossvit" in str(file.readlink())}


def test_a_decoder_has_its_own_memory_and_no_other() -> None:
    async def main() -> None:
        async with DecoderPool(count=3, max_pixels=10**6, seconds=10, memory_bytes=1 << 30) as decoders:
            await decoders.start()
            own = {os.fstat(file).st_ino for file in decoders.files}
            mapped = [mapped_memories(pid) for pid in workers(os.getpid(), "decoder")]
            assert [len(inodes) for inodes in mapped] == [1, 1, 1]
            assert set().union(*mapped) == own
            assert len(own) == 3
            for pid, (inode,) in zip(workers(os.getpid(), "decoder"), mapped, strict=True):
                assert opened_memories(pid) <= {inode}

    asyncio.run(main())


def test_a_decoder_that_is_taken_over_changes_images_of_its_own_and_no_others() -> None:
    with intruder() as (taken, its), intruder() as (other, others):
        decode_into(taken, its)
        decode_into(other, others)
        taken.call("scribble", [7], [], seconds=30)
        assert (pixels(its) == 7).all()
        assert np.array_equal(pixels(others), PIXELS)


def test_a_decoder_that_is_taken_over_cannot_cut_its_memory_short() -> None:
    with intruder() as (taken, memory):
        decode_into(taken, memory)
        assert taken.call("cut_short", [], [], seconds=30)[0] == []
        assert os.fstat(memory.file).st_size == 4 << 20
        assert np.array_equal(pixels(memory), PIXELS)


def test_a_decoder_that_maps_more_than_its_memory_finds_nothing_there_and_ends() -> None:
    with intruder() as (taken, memory):
        decode_into(taken, memory)
        with pytest.raises(WorkerDied, match="ended by SIGBUS"):
            taken.call("read_beyond", [], [], seconds=30)
        assert np.array_equal(pixels(memory), PIXELS)
