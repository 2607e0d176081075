"""A simplification of the served graph that OpenVINO does not make itself when the sides are fixed."""

import numpy as np
import openvino
from openvino import opset13 as op


def without_identities(model: openvino.Model) -> None:
    """Take products with identity matrices out of `model`, whose shapes are fixed, in place.

    The resizing of an image, or of position embeddings, that have their branch's size already is such a product: up to
    8 % of the time of a small network. OpenVINO computes the matrix when it compiles, and then multiplies by it.
    """
    products = [node for node in model.get_ordered_ops() if _may_be_identity(node)]
    if not products:
        return
    matrices = openvino.Model([node.input_value(1) for node in products], model.get_parameters())
    values = openvino.compile_model(matrices, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        [np.zeros(parameter.shape, parameter.element_type.to_dtype()) for parameter in matrices.inputs]
    )
    for node, matrix in zip(products, values.values(), strict=True):
        if np.array_equal(matrix, np.eye(len(matrix))):
            node.output(0).replace(_factor(node))


def _may_be_identity(node: openvino.Node) -> bool:
    if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() == "Constant":
        return False
    shape = node.input_value(1).get_partial_shape()
    return shape.is_static and len(shape) == 2 and shape[0] == shape[1]


def _factor(node: openvino.Node) -> openvino.Output:
    """The factor that `node` multiplies by the identity, transposed if `node` does that too."""
    factor = node.input_value(0)
    if not node.get_attributes()["transpose_a"]:
        return factor
    before = factor.get_node()
    if before.get_type_name() == "Transpose" and before.get_friendly_name().endswith(_SWAPPED):
        return before.input_value(0)  # swapped twice
    rank = len(factor.get_partial_shape())
    swapped = op.transpose(factor, np.array([*range(rank - 2), rank - 1, rank - 2]))
    swapped.set_friendly_name(node.get_friendly_name() + _SWAPPED)
    return swapped.output(0)


_SWAPPED = "/swapped"
