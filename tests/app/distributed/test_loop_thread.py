import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.distributed.loop_thread import LoopThread


def test_work_runs_on_one_loop_and_its_errors_come_back() -> None:
    loop = LoopThread()

    async def running() -> int:
        return id(asyncio.get_running_loop())

    async def failing() -> None:
        raise ValueError("of the work")

    assert loop.run(running()) == loop.run(running())
    with pytest.raises(ValueError, match="of the work"):
        loop.run(failing())
    loop.close()
    loop.close()


def test_what_was_entered_goes_on_until_the_loop_is_closed() -> None:
    ended = False

    @asynccontextmanager
    async def context() -> AsyncIterator[str]:
        nonlocal ended
        try:
            yield "entered"
        finally:
            ended = True

    loop = LoopThread()
    assert loop.enter(context()) == "entered"
    gc.collect()
    assert not ended
    loop.close()
    assert ended


def test_a_process_ends_though_its_loop_runs() -> None:
    program = "from app.distributed.loop_thread import LoopThread; LoopThread(); print('done')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("done\n", "")
