"""The served graph at one side: everything that follows from the side becomes a constant.

Builders of GPU engines tune their kernels for the shapes of the graph, so they get one in which only the batch is open:
no resize matrix, no position interpolation and no shape arithmetic at run time.
"""

import numpy as np
import onnx_ir as ir
import onnxscript.rewriter.rules.common as rules
from onnx_ir.passes import common as passes
from onnxscript.rewriter import pattern, rewrite

from export.graphs.folding import ANY_SIZE, fold


def fix_side(model: ir.Model, side: int) -> None:
    """Make `model`, as export.graphs.served_graph wrote it, a graph of images (batch, side, side, 3), in place.

    Raises RuntimeError if a dimension other than the batch is still open.
    """
    model.graph.inputs[0].shape = ir.Shape(["batch", side, side, 3])
    _forget_shapes(model)
    fold(model)
    _infer_shapes(model)
    rewrite(
        model,
        [
            rules.materialize_reshape_shape_rule,  # [the image's batch, 197, 448] to [-1, 197, 448]
            pattern.RewriteRule(_product, _left_factor, _is_by_identity),  # where the image has the branch's side
        ],
    )
    passes.IdentityEliminationPass()(model)
    rewrite(model, [rules.transpose_transpose_rule, rules.no_op_transpose_rule])
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass(size_limit=ANY_SIZE)(model)
    passes.RemoveUnusedNodesPass()(model)
    _infer_shapes(model)
    for value in _computed(model):
        if value.shape is None or sum(not isinstance(size, int) for size in value.shape) > 1:
            raise RuntimeError(f"the graph at side {side} has a value of the shape {value.shape}: {value.name}")


def _infer_shapes(model: ir.Model) -> None:
    _forget_shapes(model)
    passes.ShapeInferencePass(data_prop=True)(model)


def _forget_shapes(model: ir.Model) -> None:
    for value in _computed(model):
        value.shape = None


def _computed(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs]


def _product(op, x, matrix):  # type: ignore[no-untyped-def]
    return op.MatMul(x, matrix)


def _left_factor(op, x, matrix):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return op.Identity(x)


def _is_by_identity(_: object, x: ir.Value, matrix: ir.Value) -> bool:  # noqa: ARG001
    constant = ir.convenience.get_const_tensor(matrix)
    if constant is None or len(constant.shape) != 2 or constant.shape[0] != constant.shape[1]:
        return False
    return bool((constant.numpy() == np.eye(constant.numpy().shape[0])).all())
