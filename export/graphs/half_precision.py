"""The graph in half precision: 16-bit weights and products, and float32 where 16 bits are not enough.

The graph becomes strongly typed, with every cast written into it, so that every engine computes the same. Float32 stays
in normalising and resizing the image, in the position embeddings until they are added, in every softmax, and in
everything from the last LayerNorm of each branch on: the heads and their mean. The LayerNorms between take and give 16
bits, and compute mean and variance in float32 (ONNX's `stash_type` 1, the default), unless they are in `wide`.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from bundle.precisions import BF16, FP16

DTYPES = {FP16: ir.DataType.FLOAT16, BF16: ir.DataType.BFLOAT16}
# ONNX Runtime's CUDA provider (1.31) has no Pad in bfloat16.
_WIDE = {FP16: {"Softmax"}, BF16: {"Softmax", "Pad"}}
_BFLOAT16_OPSET = 22  # the first whose convolutions take it; nothing else in the graph changes from 20
_FLOAT = ir.DataType.FLOAT


def to_half(model: ir.Model, precision: str, *, wide: Collection[str] = ()) -> None:
    """Convert `model`, a served graph with a dynamic or a fixed side, to "fp16" or "bf16", in place.

    Input and outputs keep their types, and operators in `wide` stay in float32. Raises OverflowError if a weight is
    beyond the range of 16 bits.
    """
    half = DTYPES[precision]
    if half == ir.DataType.BFLOAT16:
        model.opset_imports[""] = max(_BFLOAT16_OPSET, model.opset_imports[""])
    passes.ShapeInferencePass()(model)  # gives every value its type
    narrow = encoder_nodes(model)
    narrow -= {node for node in narrow if node.op_type in _WIDE[precision].union(wide)}
    for node in narrow:
        for output in node.outputs:
            output.dtype = half
    for weights in model.graph.initializers.values():
        if weights.dtype == _FLOAT and all(user in narrow for user, _ in weights.uses()):
            _narrow_weights(weights, half)
    casts = _Casts(model)
    for node in list(model.graph):
        dtype = half if node in narrow else _FLOAT
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (half, _FLOAT) and value.dtype != dtype:
                node.replace_input_with(index, casts.before(node, value, dtype))


def encoder_nodes(model: ir.Model) -> set[ir.Node]:
    """The nodes from the patch embeddings' convolutions up to each branch's last LayerNorm, without it."""
    return _behind_convolutions(model) - _heads(model)


def emulate_half(model: ir.Model) -> None:
    """Make a graph of to_half compute in float32, rounding to 16 bits after each operator, in place.

    ONNX Runtime runs float16 on a CPU like this; for bfloat16 it has no such kernels.
    """
    casts = _Casts(model)
    for node in list(model.graph):
        if node.op_type == "Cast":
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in DTYPES.values():
                node.replace_input_with(index, casts.before(node, value, _FLOAT))
        for value in node.outputs:
            if value.dtype in DTYPES.values():
                _round_after(model, node, value)


class _Casts:
    """Adds casts to a graph, one for each value and type."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def before(self, user: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` as `dtype`; users must come in the graph's order."""
        if (value, dtype) not in self._made:
            cast = _cast(value, dtype)
            self._graph.insert_before(user, cast)
            self._made[value, dtype] = cast.outputs[0]
        return self._made[value, dtype]


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(dtype)})
    cast.outputs[0].name = f"{value.name}_{dtype.name.lower()}"
    cast.outputs[0].dtype, cast.outputs[0].shape = dtype, value.shape
    return cast


def _round_after(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    assert value.dtype is not None
    cast = _cast(value, value.dtype)
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    value.dtype = _FLOAT
    model.graph.insert_after(node, cast)


def _behind_convolutions(model: ir.Model) -> set[ir.Node]:
    """The patch embeddings' convolutions, and all nodes that depend on them."""
    reached: set[ir.Node] = set()
    nodes = [node for node in model.graph if node.op_type == "Conv"]
    while nodes:
        node = nodes.pop()
        if node not in reached:
            reached.add(node)
            nodes += node.successors()
    return reached


def _heads(model: ir.Model) -> set[ir.Node]:
    """Each branch's last LayerNorm, and all nodes that depend on it."""
    reached: set[ir.Node] = set()
    nodes = [value.producer() for value in model.graph.outputs]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in reached:
            reached.add(node)
            nodes += node.predecessors() if node.op_type != "LayerNormalization" else ()
    return reached


def _narrow_weights(value: ir.Value, half: ir.DataType) -> None:
    assert value.const_value is not None
    wide = value.const_value.numpy()
    with np.errstate(over="ignore"):
        narrow = wide.astype(half.numpy())
    if not np.isfinite(narrow.astype(np.float32)).all():
        raise OverflowError(
            f"{value.name} has values up to {np.abs(wide).max():.3g}, beyond {half.name.lower()}; use bf16 or float32"
        )
    value.const_value = ir.tensor(narrow, dtype=half, name=value.name)
    value.dtype = half
