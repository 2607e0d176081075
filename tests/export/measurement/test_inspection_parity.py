import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.graphs.inspected_network import Inspected
from export.graphs.rule_made import rule_made_images
from export.graphs.shipped_templates import network_of, templates_of
from export.measurement.comparison import Disagreement
from export.measurement.inspection_parity import inspection_difference
from export.measurement.template_parity import rule_made_graph
from export.ship_templates import rule_made_network
from model.spec import VARIANTS
from tests.support.reference_network import TINY

EVERY_VARIANT = [
    TINY.name,
    *(pytest.param(name, marks=pytest.mark.exhaustive) for name in VARIANTS if name != TINY.name),
]
TOLERANCE = 1e-5


def filled(name: str, trained: int) -> onnx.ModelProto:
    template = templates_of(network_of(VARIANTS[name])).inspection
    return rule_made_graph(template, VARIANTS[name], trained)


@pytest.mark.parametrize("name", EVERY_VARIANT)
@pytest.mark.parametrize("trained", [pytest.param(224, marks=pytest.mark.exhaustive), 384])
def test_the_shipped_inspection_graph_gives_what_pytorch_and_its_autograd_give(name: str, trained: int) -> None:
    """With seven classes, and the position embeddings of either resolution."""
    inspected = Inspected(rule_made_network(VARIANTS[name], trained))
    graph = filled(name, trained).SerializeToString()
    assert inspection_difference(inspected, rule_made_images(trained), graph, TOLERANCE) < TOLERANCE


def test_a_graph_of_other_weights_disagrees() -> None:
    inspected = Inspected(rule_made_network(TINY, 224))
    graph = filled(TINY.name, 224)
    (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name == "network.norm.1.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))
    with pytest.raises(Disagreement, match="of the inspection graph differs from PyTorch by"):
        inspection_difference(inspected, rule_made_images(224), graph.SerializeToString(), TOLERANCE)
