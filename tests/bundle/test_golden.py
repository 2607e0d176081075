import numpy as np
import pytest

from bundle.golden import TOLERANCE, Golden, mismatch

GOLDEN = Golden(
    np.zeros((3, 224, 224, 3), np.uint8), np.random.default_rng(1).normal(size=(3, 3, 10)).astype(np.float32)
)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_logits_may_differ_by_the_tolerance_of_the_precision(precision: str) -> None:
    assert mismatch(GOLDEN, GOLDEN.logits, precision) is None
    assert mismatch(GOLDEN, GOLDEN.logits * (1 + 0.9 * TOLERANCE[precision]), precision) is None
    wrong = mismatch(GOLDEN, GOLDEN.logits * (1 + 1.1 * TOLERANCE[precision]), precision)
    assert wrong is not None
    assert f"for {precision}" in wrong


def test_nan_and_other_shapes_are_wrong() -> None:
    assert mismatch(GOLDEN, np.full_like(GOLDEN.logits, np.nan), "bf16") is not None
    assert "the shape (3, 2, 10) instead of (3, 3, 10)" in str(mismatch(GOLDEN, GOLDEN.logits[:, :2], "f32"))
