import numpy as np
import pytest
from numpy.typing import NDArray

from export.measurement.comparison import Disagreement, compare
from model.spec import SIGMOID, SOFTMAX

CLASSES = 10


def logits(best: list[int]) -> NDArray[np.float32]:
    found = np.zeros((3, len(best), CLASSES), np.float32)
    found[0, range(len(best)), best] = 2
    return found


def trained(images: int = 4000, classes: int = 50, spread: float = 2.0) -> NDArray[np.float32]:
    """Logits of images of which some are clear and some are not; the same ones each time."""
    rng = np.random.default_rng(1)
    answer = rng.normal(scale=spread, size=(images, classes))
    return np.stack([answer, answer, answer]).astype(np.float32)


def rounded(expected: NDArray[np.float32], noise: float) -> NDArray[np.float32]:
    return (expected + np.random.default_rng(2).normal(scale=noise, size=expected.shape)).astype(np.float32)


def test_images_with_the_same_best_class_are_counted() -> None:
    found = compare(logits([1, 2, 3, 4]), logits([1, 2, 3, 5]), SOFTMAX)
    assert (found.images, found.top1, found.worst, found.scale) == (4, 0.75, 2, 2)


def test_the_worst_difference_counts_either_way_and_in_every_output() -> None:
    expected, actual = logits([1, 2]), logits([1, 2])
    actual[1, 0, 3], actual[1, 1, 3] = 5, -4
    assert compare(expected, actual, SOFTMAX).worst == 5


def test_an_image_is_clear_if_no_difference_that_was_seen_could_change_its_class() -> None:
    expected = logits([1, 2, 3, 4])
    expected[0, 0, 5] = 1.5  # 0.5 behind the best
    actual = expected.copy()
    actual[0, 1, 0] += 0.3
    assert compare(expected, actual, SOFTMAX).clear == 0.75
    actual[0, 1, 0] -= 0.1
    assert compare(expected, actual, SOFTMAX).clear == 1


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_the_distance_is_that_of_the_answer_by_its_spread(noise: float) -> None:
    expected = trained()
    actual = rounded(expected, noise)
    actual[1:] += 7  # the branches alone
    assert compare(expected, actual, SOFTMAX).distance == pytest.approx(noise / 2, rel=0.03)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_the_expected_loss_is_what_changed_classes_lose_of_their_score(noise: float) -> None:
    expected = trained()
    actual = rounded(expected, noise)
    exponentials = np.exp(expected[0].astype(float))
    scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(scores))
    lost = scores.max(axis=1) - scores[rows, actual[0].argmax(axis=1)]
    found = compare(expected, actual, SOFTMAX)
    assert found.loss == pytest.approx(lost.mean(), rel=0.1)
    assert found.loss < found.loss_limit < 1.2 * found.loss


def test_the_interval_is_wider_with_fewer_images() -> None:
    many, few = (compare(trained(n), rounded(trained(n), 0.3), SOFTMAX) for n in (4000, 40))
    assert few.loss_limit - few.loss > 5 * (many.loss_limit - many.loss)
    one = compare(trained(1), rounded(trained(1), 0.3), SOFTMAX)
    assert one.loss_limit == 1


def test_classes_that_are_as_good_as_each_other_cost_nothing() -> None:
    """An untrained network's best classes change often, and mean nothing."""
    expected = trained(spread=0.01)
    found = compare(expected, rounded(expected, 0.0005), SOFTMAX)
    assert found.top1 < 0.95
    assert found.fault() is None


def wrong_image_in_fifty(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    actual = expected.copy()
    actual[:, ::50] = np.roll(actual[:, ::50], 1, axis=2)
    return actual


def rolled(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.roll(expected, 1, axis=2)


def halved(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    return (expected / 2).astype(np.float32)


def noisy(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    return rounded(expected, 0.4)


@pytest.mark.parametrize("engine", [wrong_image_in_fifty, rolled, halved, noisy])
def test_engines_that_are_wrong_are_found_out(engine: object) -> None:
    assert callable(engine)
    expected = trained(200)
    assert compare(expected, engine(expected), SOFTMAX).fault() is not None


def test_scores_of_sigmoid_are_compared_class_by_class() -> None:
    expected = trained(200)
    found = compare(expected, halved(expected), SIGMOID)
    changes = np.abs(1 / (1 + np.exp(-expected[0].astype(float))) - 1 / (1 + np.exp(-expected[0].astype(float) / 2)))
    assert found.score_distance == pytest.approx(changes.max(axis=1).mean(), rel=1e-6)


def test_a_network_of_one_class_is_compared_by_its_logit_and_score() -> None:
    expected = trained(200, classes=1)
    assert compare(expected, rounded(expected, 0.01), SIGMOID).fault() is None
    assert compare(expected, rounded(expected, 0.5), SIGMOID).fault() is not None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_never_agree(value: float) -> None:
    expected = logits([1, 1])
    actual = expected.copy()
    actual[2, 0, 0] = value
    with pytest.raises(Disagreement, match="NaN or infinite"):
        compare(expected, actual, SOFTMAX)
