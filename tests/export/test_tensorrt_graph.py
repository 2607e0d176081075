"""The graphs that export/to_trt.py gives to TensorRT, held against what its parser takes and its builder fuses.

`make test` tests crossvit_tiny's, `make test-all` every network's.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest

from export.graphs.fused_attention import fuse_attention
from export.graphs.graph_template import fill_template
from export.graphs.half_precision import DTYPES
from export.graphs.shipped_templates import network_of, shipped_template
from export.plans.plan_source import PlanSource, read_source
from model.spec import ENCODERS, IMAGENET, VARIANTS, Variant, patch_grids
from tests.support.attention_pattern import Shape, attentions
from tests.support.reference_network import TINY, tensors

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


@pytest.fixture(
    scope="module",
    params=[TINY.name, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in VARIANTS if name != TINY.name)],
)
def variant(request: pytest.FixtureRequest) -> Variant:
    return VARIANTS[request.param]


@pytest.fixture(scope="module")
def source(bundle: Path, variant: Variant) -> PlanSource:
    tiny = read_source(bundle, TINY.name)
    if variant == TINY:
        return tiny
    parameters = {name: tensor.numpy() for name, tensor in tensors(variant, resolution=variant.resolution).items()}
    graph = fill_template(shipped_template(network_of(variant)), parameters, IMAGENET).SerializeToString()
    return dataclasses.replace(tiny, graph=graph)  # of the manifest only the preprocessing counts, which is the same


@pytest.fixture(scope="module")
def graphs(source: PlanSource, precision: str) -> dict[int, ir.Model]:
    return {resolution: source.at(resolution, precision) for resolution in SIDES}


@pytest.fixture(scope="module")
def wide_bytes(source: PlanSource) -> dict[int, int]:
    """What the weights take in float32."""
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


def test_the_pixels_go_to_one_cast(graphs: dict[int, ir.Model]) -> None:
    """TensorRT takes an input of uint8 only if nothing but casts read it."""
    for model in graphs.values():
        (image,) = model.graph.inputs
        assert image.dtype == ir.DataType.UINT8
        assert [(user.op_type, user.outputs[0].dtype) for user, _ in image.uses()] == [("Cast", ir.DataType.FLOAT)]


def test_all_that_is_computed_is_floating_point(graphs: dict[int, ir.Model]) -> None:
    for model in graphs.values():
        assert {value.dtype for node in model.graph for value in node.outputs} <= FLOATS


# The parser makes attributes of its layers of them. Only a Gather keeps its index, a constant: the place of CLS.
INTEGER_CONSTANTS = {
    ("Reshape", 1),
    ("Pad", 1),
    ("Unsqueeze", 1),
    ("Slice", 1),
    ("Slice", 2),
    ("Slice", 3),
    ("Slice", 4),
    ("Gather", 1),
}


def test_nothing_is_computed_with_shapes(graphs: dict[int, ir.Model]) -> None:
    for model in graphs.values():
        for node in model.graph:
            assert not [name for name, value in node.attributes.items() if value.type == ir.AttributeType.GRAPH], node
            for place, value in enumerate(node.inputs):
                if value is not None and value.dtype == ir.DataType.INT64:
                    assert (node.op_type, place) in INTEGER_CONSTANTS
                    assert value.const_value is not None, node
                    assert node.op_type != "Gather" or value.const_value.numpy() == 0


def test_layer_norms_and_softmax_compute_in_float32(graphs: dict[int, ir.Model], variant: Variant) -> None:
    # Two in a block, three on each way through a fusion, and each branch's last.
    count = ENCODERS * (2 * (1 + variant.depth) + 2 * 3) + 2
    for model in graphs.values():
        norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
        assert len(norms) == count
        for norm in norms:
            assert len(norm.outputs) == 1
            assert norm.attributes.get_int("stash_type", 1) == ir.DataType.FLOAT  # the default is float32
            # TensorRT's parser passes that on only where types are weak.
            assert {value.dtype for value in [*norm.inputs, *norm.outputs] if value} == {ir.DataType.FLOAT}
        softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
        assert {node.outputs[0].dtype for node in softmaxes} == {ir.DataType.FLOAT}


def test_between_a_layer_norm_and_the_next_product_is_one_cast(graphs: dict[int, ir.Model], precision: str) -> None:
    """A second one would be a kernel of its own, which writes every activation in float32."""
    for model in graphs.values():
        norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
        casts = Counter(tuple(sorted(set(casts_until_products(norm)))) for norm in norms)
        # Each branch's last one is followed by the head, in float32.
        assert casts == ({(0,): len(norms)} if precision == "f32" else {(1,): len(norms) - 2, (0,): 2})


def casts_until_products(node: ir.Node, casts: int = 0) -> Iterator[int]:
    """How many casts lie on each way from `node` to the next product."""
    users = node.successors()
    assert users, "a normalised value reaches an output"
    for user in users:
        if user.op_type in ("MatMul", "Gemm"):
            yield casts
        else:
            assert user.op_type in ("Cast", "Gelu", "Gather", "Transpose"), user
            yield from casts_until_products(user, casts + (user.op_type == "Cast"))


def expected_tokens(resolution: int) -> list[int]:
    """Of (S, L)."""
    return [1 + side * side for side in patch_grids(resolution)]


def test_self_attention_is_what_tensorrt_fuses(graphs: dict[int, ir.Model], variant: Variant, precision: str) -> None:
    """As "Fused attention" of TensorRT's documentation has it: 16 to 256 wide heads, in multiples of 8."""
    for resolution, model in graphs.items():
        found = attentions(model, DTYPES.get(precision, ir.DataType.FLOAT), dimensions=4)
        expected = Counter[tuple[Shape, ...]]()
        for dim, tokens, blocks in zip(variant.dims, expected_tokens(resolution), (1, variant.depth), strict=True):
            width = dim // variant.heads
            assert width % 8 == 0
            assert 16 <= width <= 256
            by_token, by_width = (variant.heads, tokens, width), (variant.heads, width, tokens)
            expected[by_token, by_width, by_token] += ENCODERS * blocks
        assert Counter((attention.queries, attention.keys, attention.values) for attention in found) == expected
        for attention in found:
            assert attention.scaled_directly
            assert math.isclose(attention.scale, attention.queries[-1] ** -0.5, rel_tol=4e-3)


def test_cross_attention_is_one_product_of_all_heads_with_the_tokens(
    graphs: dict[int, ir.Model], variant: Variant, precision: str
) -> None:
    """Its only query is CLS, seen by each head through W_k, so the heads are rows of one matrix as wide as the tokens.

    So the widths are those of the tokens, up to 768, and beyond 256 TensorRT has no fused kernel for them.
    """
    for resolution, model in graphs.items():
        found = attentions(model, DTYPES.get(precision, ir.DataType.FLOAT), dimensions=3)
        expected = Counter(
            ((variant.heads, dim), (dim, tokens), (tokens, dim))
            for dim, tokens in zip(variant.dims, expected_tokens(resolution), strict=True)
            for _ in range(ENCODERS)
        )
        assert Counter((attention.queries, attention.keys, attention.values) for attention in found) == expected
        for attention in found:
            assert math.isclose(attention.scale, (attention.queries[-1] / variant.heads) ** -0.5, rel_tol=4e-3)


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
