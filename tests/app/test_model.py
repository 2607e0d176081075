import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle import open_bundle
from app.engines.engine import Logits
from app.model import Model, top


def test_scores_are_the_softmax_of_the_logits_best_first() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    exponentials = np.exp([1.0, 3.0, 2.0])
    expected = [(1, 2), (2, 1), (0, 0)]
    assert [index for index, _ in top(logits, 5)] == [index for index, _ in expected]
    assert [score for _, score in top(logits, 5)] == pytest.approx(
        [exponentials[i] / exponentials.sum() for i in (1, 2, 0)]
    )


def test_large_logits_do_not_overflow() -> None:
    assert top(np.array([1e4, -1e4], np.float32), 2) == [(0, 1.0), (1, 0.0)]


def test_equal_scores_come_in_index_order() -> None:
    assert [index for index, _ in top(np.zeros(4, np.float32), 3)] == [0, 1, 2]


class SlowEngine:
    """Loads slowly, and counts; what a real one answers is in tests/app/engines."""

    name, precision = "slow", "f32"

    def __init__(self) -> None:
        self.loads: list[int] = []

    def load(self, side: int) -> None:
        self.loads.append(side)
        time.sleep(0.2)
        if len(self.loads) == 1 and side == 480:
            raise MemoryError

    def run(self, images: NDArray[np.uint8]) -> Logits:
        return np.zeros((len(images), 1000), np.float32)


def test_a_resolution_is_loaded_once_even_if_those_who_asked_have_gone(bundle: Path) -> None:
    async def main() -> None:
        engine = SlowEngine()
        async with Model(open_bundle(bundle), engine, max_batch=8, max_pixels=10**6) as model:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(model.load(384), 0.03)
            assert model.loaded == []
            await model.load(384)
            assert (model.loaded, engine.loads) == ([384], [384])

    asyncio.run(main())


def test_a_load_that_failed_is_tried_again(bundle: Path) -> None:
    async def main() -> None:
        engine = SlowEngine()
        async with Model(open_bundle(bundle), engine, max_batch=8, max_pixels=10**6) as model:
            with pytest.raises(MemoryError):
                await model.load(480)
            assert model.loaded == []
            await model.load(480)
            assert (model.loaded, engine.loads) == ([480], [480, 480])

    asyncio.run(main())
