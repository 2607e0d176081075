import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from export.measurement.comparison import Disagreement, compare, upper_limit
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
    found = compare(logits([1, 2, 3, 4]), logits([1, 2, 3, 5]), SOFTMAX, 10)
    assert (found.images, found.top1, found.worst, found.scale) == (4, 0.75, 2, 2)


def test_the_worst_difference_counts_either_way_and_in_every_output() -> None:
    expected, actual = logits([1, 2]), logits([1, 2])
    actual[1, 0, 3], actual[1, 1, 3] = 5, -4
    assert compare(expected, actual, SOFTMAX, 10).worst == 5


def test_an_image_is_clear_if_no_difference_that_was_seen_could_change_its_class() -> None:
    expected = logits([1, 2, 3, 4])
    expected[0, 0, 5] = 1.5  # 0.5 behind the best
    actual = expected.copy()
    actual[0, 1, 0] += 0.3
    assert compare(expected, actual, SOFTMAX, 10).clear == 0.75
    actual[0, 1, 0] -= 0.1
    assert compare(expected, actual, SOFTMAX, 10).clear == 1


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_the_distance_is_that_of_the_answer_by_its_spread(noise: float) -> None:
    expected = trained()
    actual = rounded(expected, noise)
    actual[1:] += 7  # the branches alone
    assert compare(expected, actual, SOFTMAX, 10).distance == pytest.approx(noise / 2, rel=0.05)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_the_expected_loss_is_what_changed_classes_lose_of_their_score(noise: float) -> None:
    expected = trained()
    actual = rounded(expected, noise)
    exponentials = np.exp(expected[0].astype(float))
    scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(scores))
    lost = scores.max(axis=1) - scores[rows, actual[0].argmax(axis=1)]
    found = compare(expected, actual, SOFTMAX, 10)
    assert found.loss == pytest.approx(lost.mean(), rel=0.1)
    assert found.loss < found.loss_limit < 1.5 * found.loss


def test_the_interval_is_over_photographs_since_views_of_one_are_alike() -> None:
    expected = np.tile(trained(10), (1, 20, 1))
    actual = np.tile(rounded(trained(10), 0.5), (1, 20, 1))
    found, as_if = (compare(expected, actual, SOFTMAX, photographs) for photographs in (10, 200))
    assert (found.images, found.photographs, found.loss) == (200, 10, as_if.loss)
    assert found.loss_limit - found.loss > 4 * (as_if.loss_limit - as_if.loss) > 0


@pytest.mark.parametrize("count", [3, 10, 200])
def test_the_limit_is_that_of_students_t(count: int) -> None:
    values = np.random.default_rng(3).uniform(0, 0.01, count)
    _, expected = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert upper_limit(values) - values.mean() == pytest.approx(expected - values.mean(), rel=0.05)


def test_the_best_classes_differences_are_what_counts() -> None:
    """8 bits round large logits most; classes that no image is of have no say."""
    expected = trained(200, classes=100)
    actual = rounded(expected, 0.3)
    rivals = np.argsort(-expected[0], axis=1)[:, :20]
    far = np.ones(expected.shape[1:], bool)
    np.put_along_axis(far, rivals, False, axis=1)
    only_far = np.where(far, actual, expected)
    assert compare(expected, only_far, SOFTMAX, 10).loss == 0
    only_near = np.where(far, expected, actual)
    assert compare(expected, only_near, SOFTMAX, 10).loss == compare(expected, actual, SOFTMAX, 10).loss > 0


def test_classes_that_are_as_good_as_each_other_cost_nothing() -> None:
    """An untrained network's best classes change often, and mean nothing."""
    expected = trained(spread=0.01)
    found = compare(expected, rounded(expected, 0.0005), SOFTMAX, 10)
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


def clipped(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.minimum(expected, 5)


def without_its_best(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    actual = expected.copy()
    best = expected[0].argmax(axis=1)
    actual[:, np.arange(len(best)), best] -= 0.3
    return actual


def noisy(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    return rounded(expected, 0.4)


@pytest.mark.parametrize("engine", [wrong_image_in_fifty, rolled, halved, noisy, clipped, without_its_best])
def test_engines_that_are_wrong_are_found_out(engine: object) -> None:
    assert callable(engine)
    expected = trained(200)
    assert compare(expected, engine(expected), SOFTMAX, 10).fault() is not None


def test_scores_of_sigmoid_are_compared_class_by_class() -> None:
    expected = trained(200)
    found = compare(expected, halved(expected), SIGMOID, 10)
    changes = np.abs(1 / (1 + np.exp(-expected[0].astype(float))) - 1 / (1 + np.exp(-expected[0].astype(float) / 2)))
    assert found.score_distance == pytest.approx(changes.max(axis=1).mean(), rel=1e-6)


def test_a_network_of_one_class_is_compared_by_its_logit_and_score() -> None:
    expected = trained(200, classes=1)
    assert compare(expected, rounded(expected, 0.01), SIGMOID, 10).fault() is None
    assert compare(expected, rounded(expected, 0.5), SIGMOID, 10).fault() is not None
    negated = compare(expected, -expected, SIGMOID, 10)
    assert negated.top1 == 0
    assert negated.fault(least_top1=0.5) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_never_agree(value: float) -> None:
    finite = logits([1, 1])
    broken = finite.copy()
    broken[2, 0, 0] = value
    with pytest.raises(Disagreement, match="its logits are NaN or infinite"):
        compare(finite, broken, SOFTMAX, 2)
    with pytest.raises(Disagreement, match="float32's own logits are NaN or infinite"):
        compare(broken, finite, SOFTMAX, 2)


def test_what_softmax_ignores_is_no_distance() -> None:
    expected = trained(50)
    assert compare(expected, expected + 3, SOFTMAX, 10).distance < 1e-6
    assert compare(expected, expected + 3, SIGMOID, 10).distance > 1
