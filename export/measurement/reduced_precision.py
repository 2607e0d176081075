"""A bundle's graphs in half precision: made from the float32 graph, and compared with it on photographs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from bundle.file_names import GRAPHS, MODEL
from bundle.manifest import HalfPrecision
from bundle.precisions import BF16
from export.graphs.fused_attention import fuse_attention
from export.graphs.half_precision import emulate_half, to_half
from export.measurement.float32_answers import Float32Answers, measure_agreement
from export.measurement.onnx_sessions import ONNX_RUNTIME, onnxruntime_session


def add_precision(
    folder: Path,
    precision: str,
    expected: Mapping[int, Float32Answers],
    say: Callable[[str], None],
) -> HalfPrecision:
    """Write the graph of the bundle in `folder` in `precision`, and measure it.

    Raises Disagreement if its logits are not finite, and OverflowError as to_half does.
    """
    graph = ir.load(folder / MODEL)
    fuse_attention(graph)
    to_half(graph, precision)
    path = folder / GRAPHS[precision]
    ir.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    if precision == BF16:
        emulate_half(graph)  # ONNX Runtime has no such kernels on a CPU
    run = onnxruntime_session(ir.to_proto(graph).SerializeToString())
    measured = measure_agreement(precision, expected, run, say)
    return HalfPrecision(engine=f"{ONNX_RUNTIME}, CPU", agreement=measured)
