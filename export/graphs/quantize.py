"""The graph in 8 bits, for CPUs: NNCF sees on photographs how large each value gets, and rounds it accordingly.

Weights have 8 bits with a scale for each output, what flows into a product 8 bits with one scale (QuantizeLinear and
DequantizeLinear around each). SmoothQuant moves outliers from what flows into the weights. Float32 stays where 8 bits
cost accuracy and save no time: in all that makes pixels and position embeddings of the image, in the cross-attention
with the projections of CLS around it, and in each branch's last LayerNorm and head.
"""

import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from bundle.bundle_errors import ExplainedError
from bundle.tensors import INPUT
from export.graphs.half import middle

KEPT = ("pixels and position embeddings", "cross-attention", "last LayerNorms and heads")
# NNCF's own is 0.95. On 9_dagger (weights by a rule) the logits' distance from float32's, relative to their length, is
# 0.043 with that and 0.033 with this, the middle between smoothing all and nothing.
_SMOOTHING = 0.5
_PART = re.compile(r"network\.(?:blocks\.\d+\.)?(\w+)\.")  # of the network, that a parameter belongs to


class NotInstalled(ExplainedError):
    """A package that makes or runs 8-bit graphs is missing."""


def require() -> None:
    """NotInstalled unless NNCF and OpenVINO, on which 8 bits are measured, are here."""
    missing = [name for name in ("nncf", "openvino") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotInstalled(
            f"int8 needs {' and '.join(missing)}, not installed here: "
            "python -m pip install -c constraints.txt -e '.[quantize]'"
        )


def quantized(model: Path, images: Iterable[NDArray[np.uint8]]) -> ir.Model:
    """The graph `model`, which export.graphs.served made, in 8 bits; NotInstalled.

    `images` are batches (batch, side, side, 3) to calibrate on; sides may differ.
    """
    require()
    wide = _wide(ir.load(model))
    with _quiet():
        nncf = _nncf()
        samples = [{INPUT: batch} for batch in images]
        found = nncf.quantize(
            onnx.load(model),
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=wide, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=_SMOOTHING)
            ),
        )
    graph: ir.Model = ir.from_proto(found)
    passes.ClearMetadataAndDocStringPass()(graph)
    _unsigned(graph)
    return graph


def _wide(model: ir.Model) -> list[str]:
    """Names of the nodes that stay in float32."""
    narrow = middle(model) - _cross_attention(model)
    return [str(node.name) for node in model.graph if node not in narrow]


def _cross_attention(model: ir.Model) -> set[ir.Node]:
    """What stands between the blocks of one multi-scale encoder and those of the next: all that CLS alone goes through.

    Nodes stand in the order of the network, whose parameters keep their names. RuntimeError if that has changed.
    """
    found = set()
    inside = False
    for node in model.graph:
        for value in node.inputs:
            part = _PART.match(str(value.name)) if value is not None and value.is_initializer() else None
            if part is not None:
                inside = part[1] in ("projs", "fusion", "revert_projs")
        if inside:
            found.add(node)
    if not found:
        raise RuntimeError("the graph has no cross-attention with the names that export.graphs.served gives")
    return found


def _unsigned(model: ir.Model) -> None:
    """Let what flows be unsigned where its zero lies off the centre, in place; the numbers that are meant are the same.

    NNCF writes it signed, and OpenVINO's products of signed values with an offset are 5 % slower.
    """
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
            continue
        zero = node.inputs[2]
        assert zero is not None
        if zero.dtype == ir.DataType.INT8 and zero.const_value is not None and zero.const_value.numpy().any():
            shifted = zero.const_value.numpy().astype(np.int16) + 128
            zero.const_value = ir.tensor(shifted.astype(np.uint8), name=zero.name)
            zero.dtype = ir.DataType.UINT8
        if node.op_type == "QuantizeLinear" and zero.dtype is not None:
            node.outputs[0].dtype = zero.dtype


def _nncf() -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back NNCF's progress bars, several for each step."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
