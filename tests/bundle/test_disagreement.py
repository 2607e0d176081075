import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from bundle.disagreement import branch_disagreement


def test_it_is_the_jensen_shannon_divergence_of_the_softmax_in_bits() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 3, (2, 50, 9)).astype(np.float32)
    shares = [np.exp(each.astype(np.float64)) for each in (first, second)]
    one, other = (each / each.sum(axis=1, keepdims=True) for each in shares)
    expected = [jensenshannon(p, q, base=2) ** 2 for p, q in zip(one, other, strict=True)]
    assert branch_disagreement(first, second, "softmax") == pytest.approx(expected)


def test_it_is_0_for_equal_answers_and_1_for_sure_ones_that_differ() -> None:
    sure = np.array([1000.0, 0.0, 0.0]), np.array([0.0, 1000.0, 0.0])
    assert branch_disagreement(sure[0], sure[0], "softmax") == 0
    assert branch_disagreement(*sure, "softmax") == pytest.approx(1)
    assert branch_disagreement(*sure, "sigmoid") == pytest.approx(0.311, abs=1e-3)  # 1 and 1/2


def test_sigmoid_scores_are_compared_class_by_class() -> None:
    first, second = np.array([[2.0, -3.0], [0.0, 0.0]]), np.array([[2.0, 3.0], [0.0, 0.0]])
    p, q = 1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))
    expected = jensenshannon([p, 1 - p], [q, 1 - q], base=2) ** 2
    assert branch_disagreement(first, second, "sigmoid") == pytest.approx([expected, 0])
