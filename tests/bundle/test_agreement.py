import pytest
from pydantic import ValidationError

from tests.support.agreements import GOOD, agreement


def test_an_agreement_that_is_good_enough_has_no_fault() -> None:
    assert GOOD.fault() is None
    assert "NOT TAKEN" not in GOOD.describe()
    assert "float32's best class for 99.0% of 200 views" in GOOD.describe()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"distance": 0.2}, "its logits differ from float32's by 20.0% of their spread over 200 views of photographs"),
        ({"score_distance": 0.06}, "its scores differ from float32's by 0.060"),
        ({"loss": 0.002, "loss_limit": 0.006}, "it is expected to cost 0.20 points of accuracy over 200 views"),
    ],
)
def test_each_figure_has_its_bound(changes: dict[str, float], fault: str) -> None:
    found = agreement(**changes)
    assert fault in str(found.fault())
    assert f"NOT TAKEN BY ITSELF: {found.fault()}" in found.describe()


def test_best_classes_alone_do_not_decide() -> None:
    """Where two classes are as good as each other, either is right as often."""
    assert agreement(top1=0.5).fault() is None


def test_a_least_agreement_replaces_the_rule() -> None:
    far = agreement(top1=0.97, distance=0.9, score_distance=0.9, loss_limit=0.9)
    assert far.fault(least_top1=0.97) is None
    assert far.fault(least_top1=0.98) == (
        "it has float32's best class for 97.0% over 200 views of photographs, and at least 98.0% are asked for"
    )
    assert GOOD.fault(least_top1=0.995) is not None


@pytest.mark.parametrize("wrong", [{"top1": 1.5}, {"images": 0}, {"worst": float("nan")}, {"distance": -1}])
def test_impossible_figures_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        agreement(**wrong)
