import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bundle.tensors import OUTPUTS
from export.graphs.graph_template import fill_template
from export.graphs.rule_made import rule_made_parameter
from export.graphs.shipped_templates import shipped_template
from export.graphs.template_inputs import ParameterValues
from model.parameter_shapes import parameter_shapes
from model.spec import IMAGENET, NORMALIZATIONS
from tests.support.reference_network import TINY


@pytest.fixture(scope="module")
def template() -> onnx.ModelProto:
    return shipped_template(TINY.name)


@pytest.fixture(scope="module")
def parameters() -> ParameterValues:
    shapes = parameter_shapes(TINY, classes=7)
    return {name: rule_made_parameter(name, shape) for name, shape in shapes.items()}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_a_filled_template_takes_images_alone_and_knows_its_classes(
    template: onnx.ModelProto, parameters: ParameterValues
) -> None:
    model = fill_template(template, parameters, IMAGENET)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": ["batch", "side", "side", 3]} | {name: ["batch", 7] for name in OUTPUTS}


def test_parameters_that_nodes_use_as_they_are_keep_their_names_and_values(
    template: onnx.ModelProto, parameters: ParameterValues
) -> None:
    held = constants(fill_template(template, parameters, IMAGENET))
    named = {name for name in held if name.startswith("network.")}
    assert {"network.patch_embed.1.proj.weight", "network.head.0.weight"} <= named
    assert len(named) > 150
    for name in named:
        np.testing.assert_array_equal(held[name], parameters[name.removeprefix("network.")])


def test_nothing_is_computed_of_parameters_when_the_graph_runs(
    template: onnx.ModelProto, parameters: ParameterValues
) -> None:
    model = fill_template(template, parameters, IMAGENET)
    constant = {"", *(tensor.name for tensor in model.graph.initializer)}
    assert [node.name for node in model.graph.node if constant.issuperset(node.input)] == []
    used = {name for node in model.graph.node for name in node.input}
    assert set(constant) - {""} <= used


def test_pixels_are_normalised_as_asked_for(template: onnx.ModelProto, parameters: ParameterValues) -> None:
    held = constants(fill_template(template, parameters, NORMALIZATIONS["inception"]))
    np.testing.assert_allclose(held["mean"], 127.5)
    np.testing.assert_allclose(held["std"], 127.5)


def test_the_template_stays_as_it_is(template: onnx.ModelProto, parameters: ParameterValues) -> None:
    before = template.SerializeToString(deterministic=True)
    fill_template(template, parameters, IMAGENET)
    assert template.SerializeToString(deterministic=True) == before
