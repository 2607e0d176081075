import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from app.commands.evaluate.error_detection import (
    _log_odds,
    _logistic_regression,
    auroc,
    detection,
    detections,
    risk_curve,
)


def test_the_area_under_the_curve_is_scikit_learns_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    for trust in (rng.random(500), rng.integers(0, 5, 500) / 5, np.zeros(500)):
        correct = rng.random(500) < 0.2 + 0.6 * trust
        assert auroc(trust, correct) == pytest.approx(roc_auc_score(correct, trust))


def test_five_images_by_hand() -> None:
    trust, correct = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, True, False])
    assert risk_curve(trust, correct) == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    found = detection(trust, correct)
    assert found.auroc == pytest.approx(4 / 6)
    assert found.aurc == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert found.risks[1.0] == pytest.approx(2 / 5)
    assert found.risks[0.8] == pytest.approx(1 / 4)


def test_the_regression_on_both_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    score, other = rng.random((2, 2000))
    correct = rng.random(2000) < 1 / (1 + np.exp(-(3 * score - 2 * other)))
    features = np.stack([_log_odds(score), _log_odds(other), np.ones(2000)], axis=1)
    expected = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1000).fit(features, correct)
    assert _logistic_regression(features, correct) == pytest.approx(expected.coef_[0], abs=1e-3)


def test_both_find_more_where_each_knows_something() -> None:
    rng = np.random.default_rng(2)
    score, disagreement = rng.random((2, 4000))
    correct = rng.random(4000) < 1 / (1 + np.exp(-4 * (score - disagreement)))
    found = detections(score, disagreement, correct)
    assert list(found) == ["top score", "agreement", "both"]
    assert found["both"].auroc > max(found["top score"].auroc, found["agreement"].auroc) + 0.05
    assert found["both"].aurc < min(found["top score"].aurc, found["agreement"].aurc)


@pytest.mark.parametrize("correct", [True, False])
def test_there_is_nothing_to_find_where_all_are_right_or_wrong(correct: bool) -> None:
    assert detections(np.ones(3), np.zeros(3), np.full(3, correct)) == {}
