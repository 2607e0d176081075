"""Attention as one operator, for engines that have it, instead of products and a softmax."""

import math

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.rewriter import pattern, rewrite

_OPSET = 23  # the first with the operator; nothing else in the graph changes from 20


def fuse_attention(model: ir.Model, *, heads_apart: bool = False) -> None:
    """Replace every self-attention that export.graphs.served_graph wrote by ONNX's Attention, in place.

    It takes queries, keys and values as the projections give them, (batch, tokens, width), without a transpose. With
    `heads_apart` they are (batch, heads, tokens, head's width), the only layout that TensorRT's parser takes. Raises
    RuntimeError if a softmax over (batch, heads, tokens, tokens) is left.
    """
    passes.ShapeInferencePass()(model)
    operator = _operator_on_heads if heads_apart else _operator
    rewrite(model, [pattern.RewriteRule(_self_attention, operator, _is_scaled_by_head)])
    passes.RemoveUnusedNodesPass()(model)
    unfused = [node for node in model.graph if node.op_type == "Softmax" and len(node.outputs[0].shape or ()) == 4]
    if unfused:
        raise RuntimeError(
            f"{len(unfused)} attentions are not written as export.graphs.served_graph writes them: {unfused[0].name}"
        )
    model.opset_imports[""] = max(_OPSET, model.opset_imports[""])


def _self_attention(op, q, k, v, q_shape, k_shape, v_shape, scale, out_shape):  # type: ignore[no-untyped-def]
    queries = op.Transpose(op.Reshape(q, q_shape), perm=[0, 2, 1, 3], _outputs=["queries"])
    keys = op.Transpose(op.Reshape(k, k_shape), perm=[0, 2, 3, 1])
    values = op.Transpose(op.Reshape(v, v_shape), perm=[0, 2, 1, 3])
    weights = op.Softmax(op.MatMul(op.Mul(queries, scale), keys), axis=-1)
    return op.Reshape(op.Transpose(op.MatMul(weights, values), perm=[0, 2, 1, 3]), out_shape)


def _operator(op, q, k, v, queries, **_):  # type: ignore[no-untyped-def]
    heads = queries.shape[1]
    return op.Attention(q, k, v, q_num_heads=heads, kv_num_heads=heads)


def _operator_on_heads(op, q, k, v, q_shape, k_shape, v_shape, out_shape, **_):  # type: ignore[no-untyped-def]
    heads = [
        op.Transpose(op.Reshape(x, shape), perm=[0, 2, 1, 3]) for x, shape in ((q, q_shape), (k, k_shape), (v, v_shape))
    ]
    return op.Reshape(op.Transpose(op.Attention(*heads), perm=[0, 2, 1, 3]), out_shape)


def _is_scaled_by_head(_: object, queries: ir.Value, scale: ir.Value, **__: object) -> bool:
    factor = ir.convenience.get_const_tensor(scale)
    if factor is None or queries.shape is None or not isinstance(queries.shape[3], int):
        return False
    return math.isclose(float(factor.numpy()), 1 / math.sqrt(queries.shape[3]), rel_tol=1e-6)
