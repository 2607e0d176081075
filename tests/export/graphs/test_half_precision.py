from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from export.graphs.fixed_side import fix_side
from export.graphs.fused_attention import fuse_attention
from export.graphs.half_precision import DTYPES, emulate_half, to_half
from tests.support import reference_network

FLOAT = ir.DataType.FLOAT
PRECISIONS = ("fp16", "bf16")
# The distance of all logits as a vector, relative to its length: what rounding moves, and no more.
DISTANCE = {"fp16": 3e-3, "bf16": 3e-2}


def half(bundle: Path, precision: str, side: int | None = None) -> ir.Model:
    model = ir.load(bundle / "model.onnx")
    if side is not None:
        fix_side(model, side)
    to_half(model, precision)
    return model


def serialised(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString())


def distance(bundle: Path, model: ir.Model, side: int) -> float:
    """Between the answers of `model` and of float32."""
    actual, expected = (
        np.stack(onnxruntime.InferenceSession(graph).run(None, {"image": reference_network.images(side)}))
        for graph in (serialised(model), (bundle / "model.onnx").read_bytes())
    )
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_float16_runs_on_the_cpu_and_differs_by_rounding_alone(bundle: Path) -> None:
    for model in (half(bundle, "fp16"), half(bundle, "fp16", side=224)):
        assert 1e-5 < distance(bundle, model, 224) < DISTANCE["fp16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounding_after_each_step_is_emulated_in_float32(bundle: Path, precision: str) -> None:
    model = half(bundle, precision, side=224)
    emulate_half(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for node in model.graph:
        if node.op_type != "Cast":
            assert all(value.dtype not in DTYPES.values() for value in [*node.outputs, *node.inputs] if value)
    least = {"fp16": 5e-4, "bf16": 5e-3}[precision]  # that it rounds at all
    assert least < distance(bundle, model, 224) < DISTANCE[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("side", [None, 224])
def test_the_graph_is_strongly_typed(bundle: Path, precision: str, side: int | None) -> None:
    model = half(bundle, precision, side)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)  # no node mixes types
    assert {value.dtype for value in model.graph.outputs} == {FLOAT}
    assert model.graph.inputs[0].dtype == ir.DataType.UINT8


@pytest.mark.parametrize("precision", PRECISIONS)
def test_softmax_heads_and_resizing_stay_in_float32(bundle: Path, precision: str) -> None:
    model = half(bundle, precision, side=224)
    wide = [node for node in model.graph if node.op_type != "Cast" and node.outputs[0].dtype == FLOAT]
    kinds = [node.op_type for node in wide]
    assert kinds.count("Softmax") == sum(node.op_type == "Softmax" for node in model.graph) == 21
    assert kinds.count("LayerNormalization") == 2  # the last of each branch
    assert kinds.count("Gemm") == 2  # the heads
    assert kinds.count("MatMul") == 2  # resizing the image for branch S
    assert kinds.count("Conv") == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layer_norms_compute_in_float32(bundle: Path, precision: str) -> None:
    norms = [node for node in half(bundle, precision).graph if node.op_type == "LayerNormalization"]
    assert len(norms) > 40
    for norm in norms:
        stash = norm.attributes.get("stash_type")
        assert stash is None or stash.as_int() == ir.DataType.FLOAT  # the default is float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_there_once_in_sixteen_bits(bundle: Path, precision: str) -> None:
    model = half(bundle, precision)
    narrow = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    assert narrow < 0.56 * (bundle / "model.onnx").stat().st_size  # the heads stay wide
    names = [value.name for value in model.graph.initializers.values() if value.uses()]
    assert len(set(names)) == len(names)
    for node in model.graph:
        if node.op_type == "Cast" and node.inputs[0] is not None:
            assert node.inputs[0].const_value is None, "a weight is stored in float32 and cast at every call"


def test_a_weight_beyond_float16_is_refused_by_name(bundle: Path) -> None:
    model = ir.load(bundle / "model.onnx")
    weight = next(value for value in model.graph.initializers.values() if value.shape == [192, 3, 16, 16])
    assert weight.const_value is not None
    weight.const_value = ir.tensor(1e6 * weight.const_value.numpy(), name=weight.name)
    with pytest.raises(OverflowError, match=r"patch_embed.1.proj.weight has values up to .*use bf16 or float32"):
        to_half(model, "fp16")


@pytest.mark.parametrize("heads_apart", [False, True])
def test_fused_attention_gives_the_same_answers(bundle: Path, heads_apart: bool) -> None:
    model = ir.load(bundle / "model.onnx")
    fuse_attention(model, heads_apart=heads_apart)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Attention") == 15
    assert kinds.count("Softmax") == 6  # cross-attention, without keys
    queries = next(node.inputs[0] for node in model.graph if node.op_type == "Attention")
    assert queries is not None
    assert queries.shape is None or len(queries.shape) == (4 if heads_apart else 3)
    for side in (224, 384):
        assert distance(bundle, model, side) < 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fused_attention_takes_half_precision(bundle: Path, precision: str) -> None:
    model = ir.load(bundle / "model.onnx")
    fuse_attention(model)
    to_half(model, precision)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for node in model.graph:
        if node.op_type == "Attention":
            assert {value.dtype for value in [*node.inputs, *node.outputs] if value} == {DTYPES[precision]}
    emulate_half(model)
    assert distance(bundle, model, 224) < DISTANCE[precision]


def test_an_attention_that_is_not_recognised_is_an_error(bundle: Path) -> None:
    model = ir.load(bundle / "model.onnx")
    scale = next(node for node in model.graph if node.op_type == "Mul" and len(node.inputs[0].shape or ()) == 4)  # type: ignore[union-attr]
    factor = ir.Value(
        name="other", const_value=ir.tensor(np.float32(0.5)), type=ir.TensorType(FLOAT), shape=ir.Shape([])
    )
    model.graph.register_initializer(factor)
    scale.replace_input_with(1, factor)
    with pytest.raises(RuntimeError, match="1 attentions are not written as"):
        fuse_attention(model)
