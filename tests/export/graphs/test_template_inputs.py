from collections.abc import Callable

import numpy as np
import pytest

from export.graphs.graph_template import fill_template
from export.graphs.shipped_templates import shipped_template
from export.graphs.template_inputs import MisfitParameters
from model.parameter_shapes import parameter_shapes
from model.spec import IMAGENET
from tests.support.reference_network import TINY

Tensors = dict[str, np.ndarray]


def _without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def _with(name: str, *shape: int, dtype: type = np.float32) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: np.zeros(shape, dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("norm.0.weight"), r"the parameters lack network.norm.0.weight \(1 names differ\)"),
        (_with("head_dist.weight", 2), "are not of this network, which has no network.head_dist.weight"),
        (_with("norm.0.weight", 95), r"network.norm.0.weight is float32 \(95,\), expected float32 \(96,\)"),
        (_with("norm.0.weight", 96, dtype=np.float64), r"norm.0.weight is float64 \(96,\), expected float32 \(96,\)"),
        (_with("head.1.weight", 4, 192), r"network.head.1.weight is float32 \(4, 192\), expected float32 \(5, 192\)"),
        (_with("head.1.bias", 4), r"network.head.1.bias is float32 \(4,\), expected float32 \(5,\)"),
        (_with("pos_embed.0", 1, 400, 96), r"pos_embed.0 is \(1, 400, 96\): its positions are not those of CLS and"),
        (_with("pos_embed.0", 1, 1, 96), r"pos_embed.0 is \(1, 1, 96\): its positions are not those"),
        (_with("pos_embed.0", 401), r"pos_embed.0 is \(401,\): its positions are not those"),
        (_with("pos_embed.0", 1, 401, 95), r"network.positions.0.cls is float32 \(1, 1, 95\), expected"),
        (_with("pos_embed.0", 2, 401, 96), r"network.positions.0.cls is float32 \(2, 1, 96\), expected"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_name(change: Callable[[Tensors], None], message: str) -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(TINY, 5).items()}
    change(tensors)
    with pytest.raises(MisfitParameters, match=message):
        fill_template(shipped_template(TINY.name), tensors, IMAGENET)
