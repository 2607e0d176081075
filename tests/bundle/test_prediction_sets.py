import numpy as np
import pytest

from bundle.prediction_sets import RankPenalty, coverage_threshold, nonconformity, set_sizes


def test_the_nonconformity_is_that_of_the_paper_with_a_share_of_one_half() -> None:
    found = nonconformity(np.array([0.5, 0.3, 0.15, 0.05]), RankPenalty(0.1, 2))
    assert found == pytest.approx([0.25, 0.65, 0.875 + 0.1, 0.975 + 0.2])


def test_a_set_has_the_best_classes_up_to_the_threshold_and_is_never_empty() -> None:
    descending = np.array([[0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01]])
    each = nonconformity(descending, RankPenalty(0.0, 0))
    assert set_sizes(each, 0.7).tolist() == [2, 1]
    assert set_sizes(each, 0.1).tolist() == [1, 1]
    assert set_sizes(each, 1.0).tolist() == [4, 4]


def test_the_threshold_is_the_corrected_quantile() -> None:
    values = np.arange(1.0, 100.0)  # 99 of them: the 90 % quantile is the 90th of 100
    assert coverage_threshold(np.random.default_rng(0).permutation(values), 0.9) == 90
    assert coverage_threshold(values, 0.99) == 99
    assert coverage_threshold(values[:50], 0.99) is None


def test_sets_hold_the_true_class_as_often_as_promised_on_images_that_were_held_out() -> None:
    """Over many calibrations the mean coverage is within its binomial bounds; the scores need not be probabilities."""
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(200):
        logits = rng.normal(0, 2, (700, 10))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truths = (probabilities.cumsum(axis=1) > rng.random(700)[:, None]).argmax(axis=1)
        wrong = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)  # far too sure
        order = np.argsort(-wrong, axis=1)
        places = (order == truths[:, None]).argmax(axis=1)
        each = nonconformity(np.take_along_axis(wrong, order, axis=1), RankPenalty(0.01, 3))
        threshold = coverage_threshold(each[np.arange(500), places[:500]], 0.9)
        assert threshold is not None
        covered.append((places[500:] < set_sizes(each[500:], threshold)).mean())
    spread = (0.9 * 0.1 * (1 / 500 + 1 / 200) / 200) ** 0.5
    assert 0.9 - 4 * spread < np.mean(covered) < 0.9 + 1 / 501 + 4 * spread
