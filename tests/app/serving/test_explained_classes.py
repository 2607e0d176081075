"""Ranks, scores and shares of explained classes."""

import numpy as np
import pytest

from app.inspection.inspector import ClassMap, InspectedImage
from app.serving.explained_classes import explained_classes, logit_shares
from bundle.scores import scores


def image(logits: list[float], *classes: int) -> InspectedImage:
    outputs = np.array([logits] * 3, np.float32)
    empty = np.zeros(0, np.float32)
    maps = [ClassMap(number, np.full((2, 2), 0.5, np.float32), np.full((1, 1), -1, np.float32)) for number in classes]
    return InspectedImage(outputs, (empty, empty), None, maps)


def test_the_rank_is_that_of_the_logit_and_equal_ones_are_in_the_order_of_their_indices() -> None:
    explained = explained_classes(image([1, 5, 3, 5], 0, 1, 2, 3), "softmax")
    assert [(each.maps.index, each.rank) for each in explained] == [(0, 4), (1, 1), (2, 3), (3, 2)]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scores_are_those_of_answers(activation: str, temperature: float) -> None:
    (explained,) = explained_classes(image([1, 5, 3], 2), activation, temperature)  # type: ignore[arg-type]
    expected = scores(np.array([1, 5, 3], np.float32), activation, temperature)  # type: ignore[arg-type]
    assert explained.score == pytest.approx(expected[2])
    assert (explained.logit, explained.sums) == (3, (2, -1))


@pytest.mark.parametrize(
    ("logit", "sums", "shares"),
    [
        (10.0, (3.0, 4.0), (0.3, 0.4)),  # a rest of 3: sum / logit
        (-10.0, (-3.0, -4.0), (-0.3, -0.4)),
        (0.0, (3.0, -1.0), (0.5, -1 / 6)),  # a rest of -2
        (0.0, (0.0, 0.0), (0.0, 0.0)),
        (1e-9, (50.0, 50.0), (0.25, 0.25)),
    ],
)
def test_shares_are_of_all_that_makes_the_logit(
    logit: float, sums: tuple[float, float], shares: tuple[float, float]
) -> None:
    assert logit_shares(logit, sums) == pytest.approx(shares)
