"""The graphs that export/to_trt.py gives to TensorRT's parser, held against what the parser says it takes."""

import math
from pathlib import Path

import onnx_ir as ir
import pytest

from export.graphs.fused_attention import fuse_attention
from export.graphs.half_precision import DTYPES
from export.plans.plan_source import read_source
from tests.support.reference_network import TINY

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
FLOATS_AND_SIZES = FLOATS | {ir.DataType.INT64}
# From onnx-tensorrt's docs/operators.md: those of its operators that are used here, and their types that are. Read in
# the list of 10.15, and in that of 11.2 as NVIDIA's LEAPP repeats it; they agree on these rows. 10.13's was not found,
# but 9.2's, which has these rows too but for Gelu, and the changelog of 10.14 and 10.15, which adds none of them.
SUPPORTED = {
    "Add": FLOATS,
    "Cast": FLOATS | {ir.DataType.UINT8},
    "Concat": FLOATS,
    "Conv": FLOATS,
    "Div": FLOATS,
    "Gather": FLOATS_AND_SIZES,
    "Gelu": FLOATS,  # of opset 20, which is why 9.2 does not have it
    "Gemm": FLOATS,
    "LayerNormalization": FLOATS,  # "Only the first output Y is supported"
    "MatMul": FLOATS,
    "Mul": FLOATS,
    "Pad": FLOATS_AND_SIZES,
    "Relu": FLOATS,
    "Reshape": FLOATS_AND_SIZES,
    "Slice": FLOATS_AND_SIZES,
    "Softmax": FLOATS,
    "Sub": FLOATS,
    "Transpose": FLOATS,
    "Unsqueeze": FLOATS_AND_SIZES,
}
# 10.0 goes to opset 20, 10.15 and 11.2 to 24. What 10.13 says is not known; it is built with ONNX 1.18, of opset 23.
OPSETS = {"f32": range(9, 21), "fp16": range(9, 21), "bf16": range(9, 24)}
SIDES = {224: 224, 384: 384, 480: 480}  # resolution to the image's side


def not_supported(model: ir.Model) -> set[str]:
    """The operators of `model` that the parser does not take, or not in a type in which they stand."""
    return {
        f"{node.op_type} of {value.dtype}"
        for node in model.graph
        for value in [*node.inputs, *node.outputs]
        if value is not None and value.dtype not in SUPPORTED.get(node.op_type, ())
    }


@pytest.fixture(scope="module", params=["f32", "fp16", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def graphs(bundle: Path, precision: str) -> dict[int, ir.Model]:
    source = read_source(bundle, TINY.name)
    return {resolution: source.at(resolution, precision) for resolution in SIDES}


@pytest.fixture(scope="module")
def wide_bytes(bundle: Path) -> dict[int, int]:
    """What the weights take in float32."""
    source = read_source(bundle, TINY.name)
    return {resolution: total_bytes(source.at(resolution, "f32")) for resolution in SIDES}


def weights(model: ir.Model) -> list[ir.TensorProtocol]:
    return [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]


def total_bytes(model: ir.Model) -> int:
    return sum(weight.nbytes for weight in weights(model))


def test_the_parser_takes_every_operator_in_its_types(graphs: dict[int, ir.Model], precision: str) -> None:
    for model in graphs.values():
        assert not_supported(model) == set()
        assert model.opset_imports.keys() == {""}
        assert model.opset_imports[""] in OPSETS[precision]


def test_an_operator_that_the_parser_lacks_is_reported(bundle: Path) -> None:
    dynamic = ir.load(bundle / "model.onnx")
    assert "Shape of UINT8" in not_supported(dynamic)  # "UINT8 is only supported as network input or output"
    fuse_attention(dynamic)
    # "Q, K, V must be 4D", since 10.14, and here they are as the projections give them.
    assert "Attention of FLOAT" in not_supported(dynamic)


def test_all_sizes_but_the_batch_are_numbers(graphs: dict[int, ir.Model]) -> None:
    for resolution, model in graphs.items():
        (image,) = model.graph.inputs
        side = SIDES[resolution]
        assert list(image.shape or ()) == [ir.SymbolicDim("batch"), side, side, 3]
        for value in (*model.graph.outputs, *(value for node in model.graph for value in node.outputs)):
            assert value.shape is not None, value
            assert sum(not isinstance(size, int) for size in value.shape) == 1, value


def test_nothing_is_computed_with_shapes(graphs: dict[int, ir.Model]) -> None:
    for model in graphs.values():
        for node in model.graph:
            assert not [name for name, value in node.attributes.items() if value.type == ir.AttributeType.GRAPH], node
            for value in node.inputs:
                assert value is None or value.dtype != ir.DataType.INT64 or value.const_value is not None, node


def test_layer_norms_and_softmax_compute_in_float32(graphs: dict[int, ir.Model]) -> None:
    for model in graphs.values():
        norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
        assert len(norms) == 50
        for norm in norms:
            assert len(norm.outputs) == 1
            assert norm.attributes.get_int("stash_type", 1) == ir.DataType.FLOAT  # the default is float32
            # TensorRT's parser passes that on only where types are weak.
            assert {value.dtype for value in [*norm.inputs, *norm.outputs] if value} == {ir.DataType.FLOAT}
        softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
        assert {node.outputs[0].dtype for node in softmaxes} == {ir.DataType.FLOAT}


def test_attention_has_its_scale_on_the_query_before_the_first_product(graphs: dict[int, ir.Model]) -> None:
    for model in graphs.values():
        softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
        assert len(softmaxes) == 15 + 6
        for softmax in softmaxes:
            product = producer(softmax)
            if product.op_type == "Cast":
                product = producer(product)
            assert product.op_type == "MatMul"
            query = producer(product)
            while query.op_type in (
                "Transpose",
                "MatMul",
                "Reshape",
            ):  # cross-attention takes it through the key's weights
                query = producer(query)
            assert query.op_type == "Mul"
            scale = query.inputs[1].const_value if query.inputs[1] else None
            assert scale is not None
            assert any(math.isclose(scale.numpy(), width**-0.5, rel_tol=4e-3) for width in (32, 64))


def producer(node: ir.Node) -> ir.Node:
    value = node.inputs[0]
    made_by = value.producer() if value else None
    assert made_by is not None
    return made_by


def test_weights_are_stored_once_and_in_half(
    graphs: dict[int, ir.Model], wide_bytes: dict[int, int], precision: str
) -> None:
    share = 1.0 if precision == "f32" else 0.5
    for resolution, model in graphs.items():
        # What comes before the convolutions and after the last norms stays wide: the heads, and resizing the image.
        assert share <= total_bytes(model) / wide_bytes[resolution] < share + 0.08
        rounded = [
            (tuple(weight.shape.numpy()), weight.numpy().astype(DTYPES.get(precision, weight.dtype).numpy()).tobytes())
            for weight in weights(model)
            if weight.dtype in FLOATS and weight.size > 100
        ]
        assert len(set(rounded)) == len(rounded) > 100
        for node in model.graph:
            assert node.op_type != "Cast" or node.inputs[0] is None or node.inputs[0].const_value is None, node
