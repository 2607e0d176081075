"""Constant folding: what depends on no input is computed once, and operators without effect are removed."""

import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter.rules.common as rules
from onnx_ir.passes import common as passes
from onnxscript.rewriter import rewrite

ANY_SIZE = 1 << 40  # bytes of a constant

# The rules of onnxscript that match something here; trying all of its rules takes several times as long.
_SIMPLIFICATIONS = [
    rules.no_op_cast_rule,
    rules.materialize_reshape_shape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.remove_optional_bias_from_gemm_rule,
]


def fold(model: ir.Model) -> None:
    """Compute constants, weights of any size included, and remove operators without effect."""
    onnxscript.optimizer.inline(model)
    onnxscript.optimizer.fold_constants(
        model, onnx_shape_inference=False, input_size_limit=ANY_SIZE, output_size_limit=ANY_SIZE
    )
    rewrite(model, _SIMPLIFICATIONS)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.OutputFixPass()(model)
    passes.NameFixPass()(model)
