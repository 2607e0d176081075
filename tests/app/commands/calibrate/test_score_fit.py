import numpy as np
import pytest

from app.commands.calibrate.score_fit import LEAST_IMAGES, fit_scores
from app.commands.calibrate.temperature_fit import Logits, Truths
from app.errors import BadParameter
from bundle.calibration import COVERAGES
from bundle.prediction_sets import nonconformity, set_sizes
from bundle.scores import scores


def drawn(images: int, temperature: float, seed: int, classes: int = 20) -> tuple[Logits, Truths]:
    """Logits, and classes that have the probabilities of the logits at `temperature`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, classes)).astype(np.float32)
    shares = scores(logits, "softmax", temperature)
    return logits, (shares.cumsum(axis=1) > rng.random(images)[:, None]).argmax(axis=1)


def test_scores_that_are_too_sure_become_probabilities() -> None:
    found = fit_scores(*drawn(3000, 2.0, seed=1), "softmax")
    assert found.temperature == pytest.approx(2, rel=0.1)
    assert found.ece_before > 0.15
    assert found.ece_after < 0.04
    assert found.nll_before is not None
    assert found.nll_after is not None
    assert found.nll_after < found.nll_before


def test_a_temperature_that_makes_other_images_worse_is_not_taken() -> None:
    """Among a few images of scores that are right there are some whose own best temperature does others no good."""
    kept = 0
    for seed in range(20):
        logits, truths = drawn(LEAST_IMAGES, 1.0, seed)
        found = fit_scores(logits, truths, "softmax")
        assert found.nll_before is not None
        assert found.nll_after is not None
        assert found.nll_after <= found.nll_before + 1e-12
        if found.temperature == 1:
            kept += 1
            assert found.ece_after == pytest.approx(found.ece_before)
            assert found.sets is not None
    assert 0 < kept < 20


def test_sets_cover_images_that_were_not_fitted_to_within_binomial_bounds() -> None:
    found = fit_scores(*drawn(3000, 1.5, seed=2), "softmax")
    assert found.sets is not None
    logits, truths = drawn(4000, 1.5, seed=3)
    shares = scores(logits, "softmax", found.temperature)
    order = np.argsort(-shares, axis=1)
    places = (order == truths[:, None]).argmax(axis=1)
    each = nonconformity(np.take_along_axis(shares, order, axis=1), found.sets.rank_penalty)
    assert [fitted.coverage for fitted in found.sets.thresholds] == list(COVERAGES)
    for fitted in found.sets.thresholds[::7]:
        sizes = set_sizes(each, fitted.threshold)
        spread = (fitted.coverage * (1 - fitted.coverage) * (1 / 1500 + 1 / 4000)) ** 0.5
        assert (places < sizes).mean() == pytest.approx(fitted.coverage, abs=4 * spread)
        assert sizes.mean() == pytest.approx(fitted.mean_size, rel=0.15)
        assert fitted.measured_coverage == pytest.approx(fitted.coverage, abs=4 * spread)


def test_the_figures_are_of_images_that_were_left_out() -> None:
    """Noise can be fitted only to the images themselves: a figure of the fit's own images would look better."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (LEAST_IMAGES, 50)).astype(np.float32)
    found = fit_scores(logits, rng.integers(0, 50, LEAST_IMAGES), "softmax")
    assert found.sets is not None
    ninety = found.sets.at(0.9)
    assert ninety is not None
    assert ninety.measured_coverage == pytest.approx(0.9, abs=0.08)


def test_few_images_are_refused_with_a_sentence_and_give_only_what_they_can() -> None:
    logits, truths = drawn(LEAST_IMAGES, 1.0, seed=6)
    with pytest.raises(BadParameter, match=f"at least {LEAST_IMAGES}"):
        fit_scores(logits[:-1], truths[:-1], "softmax")
    found = fit_scores(logits, truths, "softmax")
    assert found.sets is not None
    assert found.sets.thresholds[-1].coverage == 0.99  # of 120 images in each fold's second half


def test_sigmoid_scores_have_a_temperature_and_no_sets() -> None:
    logits, truths = drawn(1000, 1.0, seed=7)
    found = fit_scores(logits, truths, "sigmoid")
    assert (found.sets, found.nll_before, found.nll_after) == (None, None, None)
    assert found.ece_after < found.ece_before
