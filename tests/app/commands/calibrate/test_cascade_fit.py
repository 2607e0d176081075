import numpy as np
import pytest
from numpy.typing import NDArray

from app.commands.calibrate.cascade_fit import CascadeGoal, fit_cascade
from app.errors import BadParameter

Bools = NDArray[np.bool_]


def made(images: int, seed: int) -> tuple[NDArray[np.float64], Bools, Bools]:
    """Scores that are the probability that the first step is right; the second is right for more, whatever they are."""
    rng = np.random.default_rng(seed)
    scores = rng.random(images)
    return scores, rng.random(images) < scores, rng.random(images) < 0.3 + 0.65 * scores


def test_the_threshold_is_the_least_that_keeps_the_accuracy() -> None:
    scores, first, second = made(2000, seed=0)
    found = fit_cascade(scores, first, second, CascadeGoal(accuracy_loss=0.01))

    def accuracy(threshold: float) -> float:
        return float(np.where(scores >= threshold, first, second).mean())

    least = second.mean() - 0.01
    higher = np.sort(scores[scores >= found.threshold])
    assert all(accuracy(threshold) >= least - 1e-9 for threshold in higher)
    assert accuracy(scores[scores < found.threshold].max()) < least
    assert 0.1 < found.answered_by_first < 0.7


def test_a_share_is_what_the_second_step_gets() -> None:
    scores, first, second = made(2000, seed=1)
    found = fit_cascade(scores, first, second, CascadeGoal(share=0.3))
    assert (scores < found.threshold).mean() == pytest.approx(0.3)
    assert found.answered_by_first == pytest.approx(0.7, abs=0.02)


def test_the_goal_holds_on_images_that_were_held_out() -> None:
    found = fit_cascade(*made(5000, seed=2), CascadeGoal(accuracy_loss=0.01))
    scores, first, second = made(20000, seed=3)
    answered = scores >= found.threshold
    accuracy = np.where(answered, first, second).mean()
    assert accuracy > second.mean() - 0.01 - 0.012
    assert accuracy == pytest.approx(found.accuracy, abs=0.025)
    assert answered.mean() == pytest.approx(found.answered_by_first, abs=0.05)


def test_a_first_step_that_is_as_good_answers_all() -> None:
    scores, first, _ = made(1000, seed=4)
    found = fit_cascade(scores, first, first, CascadeGoal(accuracy_loss=0.0))
    assert (found.answered_by_first, found.accuracy) == (1.0, first.mean())


def test_a_first_step_that_is_of_no_use_is_refused_with_a_sentence() -> None:
    scores, _, _ = made(1000, seed=5)
    with pytest.raises(BadParameter, match="the first step would answer no image"):
        fit_cascade(scores, np.zeros(1000, np.bool_), np.ones(1000, np.bool_), CascadeGoal(accuracy_loss=0.0))


def test_goals_say_of_which_images_they_hold() -> None:
    for goal in (CascadeGoal(share=0.3), CascadeGoal(accuracy_loss=0.005)):
        assert "the images of the fit" in str(goal)
