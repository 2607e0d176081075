import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bundle.scores import best_classes, scores
from model.spec import SIGMOID, SOFTMAX, Activation


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scores_are_those_of_pytorch_also_for_logits_that_would_overflow(activation: str) -> None:
    logits = np.array([[1, 2, 3], [1e4, 0, -1e4], [-800, -801, -802]], np.float32)
    wide = torch.from_numpy(logits).double()
    expected = torch.softmax(wide, 1) if activation == "softmax" else torch.sigmoid(wide)
    found = scores(logits, activation)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(scores(logits[1], activation), found[1])  # type: ignore[arg-type]


def test_the_best_classes_come_first_with_the_softmax_of_their_logits() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    exponentials = np.exp([1.0, 3.0, 2.0])
    expected = [(1, 2), (2, 1), (0, 0)]
    assert [index for index, _ in best_classes(logits, 5)] == [index for index, _ in expected]
    assert [score for _, score in best_classes(logits, 5)] == pytest.approx(
        [exponentials[i] / exponentials.sum() for i in (1, 2, 0)]
    )


def test_large_logits_of_the_best_classes_do_not_overflow() -> None:
    assert best_classes(np.array([1e4, -1e4], np.float32), 2) == [(0, 1.0), (1, 0.0)]


def test_equal_scores_come_in_index_order() -> None:
    assert [index for index, _ in best_classes(np.zeros(4, np.float32), 3)] == [0, 1, 2]


def test_sigmoid_scores_are_of_each_class_apart_ordered_by_their_logits() -> None:
    assert best_classes(np.array([0.0, 40.0, 50.0], np.float32), 3, "sigmoid") == [(2, 1.0), (1, 1.0), (0, 0.5)]
    assert best_classes(np.array([-1e4], np.float32), 5, "sigmoid") == [(0, 0.0)]


@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, np.nan, np.inf, -np.inf]), min_size=1, max_size=40),
    st.integers(1, 45),
    st.sampled_from([SOFTMAX, SIGMOID]),
)
def test_the_best_classes_are_those_of_a_plain_sort_with_ties_in_index_order_and_nan_last(
    values: list[float], count: int, activation: Activation
) -> None:
    logits = np.array(values, np.float32)
    with np.errstate(invalid="ignore"):
        found = best_classes(logits, count, activation)
        expected = scores(logits, activation)
    ranked = sorted(range(len(values)), key=lambda index: (np.isnan(values[index]), -np.nan_to_num(values[index])))
    assert [index for index, _ in found] == ranked[:count]
    np.testing.assert_array_equal([score for _, score in found], expected[ranked[:count]])
