import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from app.commands.calibrate.temperature_fit import fit_temperature
from bundle.calibration import MAX_TEMPERATURE
from bundle.scores import scores
from model.spec import Activation


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 4.0])
def test_it_is_the_minimum_of_scikit_learns_log_loss(true_temperature: float) -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (3000, 12)).astype(np.float32)
    shares = scores(logits, "softmax", true_temperature)
    truths = (shares.cumsum(axis=1) > rng.random(3000)[:, None]).argmax(axis=1)
    found = fit_temperature(logits, truths, "softmax")
    expected = minimize_scalar(
        lambda log: log_loss(truths, scores(logits, "softmax", np.exp(log)), labels=range(12)), bounds=(-3, 3)
    )
    assert found == pytest.approx(np.exp(expected.x), rel=1e-3)
    assert found == pytest.approx(true_temperature, rel=0.1)


def test_with_sigmoid_scores_it_is_the_minimum_of_the_binary_cross_entropy() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(-2, 2, (500, 4)).astype(np.float32)
    truths = logits.argmax(axis=1)
    truths[::4] = rng.integers(0, 4, len(truths[::4]))
    shown = np.eye(4)[truths]

    def cross_entropy(log: float) -> float:
        each = scores(logits, "sigmoid", np.exp(log))
        return -float((shown * np.log(each) + (1 - shown) * np.log1p(-each)).mean())

    expected = minimize_scalar(cross_entropy, bounds=(-3, 3))
    assert fit_temperature(logits, truths, "sigmoid") == pytest.approx(np.exp(expected.x), rel=1e-3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_temperature_without_a_minimum_stays_within_bounds(activation: Activation) -> None:
    logits = 5 * np.eye(3, dtype=np.float32) - 1
    right, wrong = np.arange(3), (np.arange(3) + 1) % 3
    assert 1 / MAX_TEMPERATURE <= fit_temperature(logits, right, activation) < 0.2
    assert 50 < fit_temperature(logits, wrong, activation) <= MAX_TEMPERATURE
    assert np.isfinite(fit_temperature(np.zeros((3, 3), np.float32), right, activation))
