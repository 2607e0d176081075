import math

import pytest
import torch

from model.crossvit import CrossViT
from model.parameter_shapes import parameter_shapes
from model.spec import VARIANTS, Variant


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
@pytest.mark.parametrize(("classes", "grids"), [(1000, None), (7, (34, 24)), (1, (30, 21))])
def test_parameters_are_those_of_the_network_in_its_order(
    variant: Variant, classes: int, grids: tuple[int, int] | None
) -> None:
    with torch.device("meta"):
        state = CrossViT(variant, classes, grids=grids).state_dict()
    assert list(parameter_shapes(variant, classes, grids).items()) == [
        (name, tuple(tensor.shape)) for name, tensor in state.items()
    ]


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_the_number_of_parameters_is_the_papers(variant: Variant) -> None:
    count = sum(map(math.prod, parameter_shapes(variant).values()))
    assert count / 1e6 == pytest.approx(variant.million_params, abs=0.011)
