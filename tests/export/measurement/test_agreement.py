import numpy as np
import pytest

from export.measurement.agreement import Disagreement, agreement


def logits(best: list[int]) -> np.ndarray:
    found = np.zeros((3, len(best), 10), np.float32)
    found[0, range(len(best)), best] = 2
    return found


def test_agreement_counts_images_with_the_same_best_class() -> None:
    expected, actual = logits([1, 2, 3, 4]), logits([1, 2, 3, 5])
    found = agreement(expected, actual)
    assert (found.images, found.top1, found.worst, found.scale) == (4, 0.75, 2, 2)


def test_the_worst_difference_counts_either_way() -> None:
    expected, actual = logits([1, 2]), logits([1, 2])
    actual[1, 0, 3], actual[1, 1, 3] = 5, -4
    assert agreement(expected, actual).worst == 5


def test_ninety_nine_of_a_hundred_must_agree() -> None:
    classes = [1] * 100
    agreement(logits(classes), logits([2, *classes[1:]])).check("it")
    with pytest.raises(Disagreement, match=r"it agrees with float32 on the best class of 98.0% of 100 images"):
        agreement(logits(classes), logits([2, 2, *classes[2:]])).check("it")


def test_nan_never_agrees() -> None:
    expected = logits([1, 1])
    actual = expected.copy()
    actual[2, 0, 0] = np.nan
    with pytest.raises(Disagreement):
        agreement(expected, actual).check("it")
