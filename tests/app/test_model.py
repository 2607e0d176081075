import numpy as np
import pytest

from app.model import top


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
