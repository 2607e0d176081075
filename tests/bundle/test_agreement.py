import pytest
from pydantic import ValidationError

from tests.support.agreements import GOOD, agreement


def test_an_agreement_that_is_good_enough_has_no_fault() -> None:
    assert GOOD.fault() is None
    assert "NOT TAKEN" not in GOOD.describe()
    assert "float32's best class for 99.0% of 200 views" in GOOD.describe()


@pytest.mark.parametrize(
    ("within", "beyond", "fault"),
    [
        (
            {"distance": 0.149},
            {"distance": 0.151},
            "its logits differ from float32's by 15.1% of their spread over 200 views of 10 photographs",
        ),
        ({"score_distance": 0.0499}, {"score_distance": 0.0501}, "its scores differ from float32's by 0.050"),
        ({"loss_limit": 0.00499}, {"loss_limit": 0.00501}, "it is expected to cost 0.01 points of accuracy over 200"),
    ],
)
def test_each_figure_has_the_bound_of_the_operators_guide(
    within: dict[str, float], beyond: dict[str, float], fault: str
) -> None:
    assert agreement(**within).fault() is None
    found = agreement(**beyond)
    assert fault in str(found.fault())
    assert f"NOT TAKEN BY ITSELF: {found.fault()}" in found.describe()
    assert "NOT TAKEN" not in found.describe(least_top1=0.99)


def test_best_classes_alone_do_not_decide() -> None:
    """Where two classes are as good as each other, either is right as often."""
    assert agreement(top1=0.5).fault() is None


def test_a_least_agreement_replaces_the_rule() -> None:
    far = agreement(top1=0.97, distance=0.9, score_distance=0.9, loss_limit=0.9)
    assert far.fault(least_top1=0.97) is None
    assert far.fault(least_top1=0.98) == (
        "it has float32's best class for 97.0% over 200 views of 10 photographs, and at least 98.0% are asked for"
    )
    assert GOOD.fault(least_top1=0.995) is not None


@pytest.mark.parametrize("wrong", [{"top1": 1.5}, {"images": 0}, {"worst": float("nan")}, {"distance": -1}])
def test_impossible_figures_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        agreement(**wrong)
