"""The graph in 8 bits, for CPUs: NNCF measures on photographs how large each value gets, and scales it accordingly.

Weights have 8 bits with a scale for each output, activations that enter a product 8 bits with one scale
(QuantizeLinear and DequantizeLinear around each). SmoothQuant moves outliers from activations into weights. Float32
stays where 8 bits cost much accuracy and save little time: in the preparation of pixels and position embeddings, in the
convolutions that make patches of pixels, in the projection that ends each attention, in the cross-attention with the
projections of CLS around it, and in each branch's last LayerNorm and head.
"""

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

from bundle.tensors import INPUT
from export.graphs.half_precision import encoder_nodes
from export.graphs.quantization_recipe import SMOOTH_QUANT_ALPHA, require_quantization

_MODULE_OF_PARAMETER = re.compile(r"network\.(?:blocks\.\d+\.)?(\w+)\.")


def quantize_graph(model: Path, images: Iterable[NDArray[np.uint8]]) -> ir.Model:
    """The graph `model`, which export.graphs.served_graph made, in 8 bits. Raises NotInstalled.

    `images` are batches (batch, side, side, 3) to calibrate on; sides may differ.
    """
    require_quantization()
    wide = _wide(ir.load(model))
    with _quiet():
        nncf = _nncf()
        samples = [{INPUT: batch} for batch in images]
        proto = nncf.quantize(
            onnx.load(model),
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=wide, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH_QUANT_ALPHA)
            ),
        )
    graph: ir.Model = ir.from_proto(proto)
    passes.ClearMetadataAndDocStringPass()(graph)
    _unsigned(graph)
    return graph


def _wide(model: ir.Model) -> list[str]:
    """Names of the nodes that stay in float32."""
    convolutions = {node for node in model.graph if node.op_type == "Conv"}
    narrow = encoder_nodes(model) - convolutions - _output_projections(model) - _cross_attention(model)
    return [str(node.name) for node in model.graph if node not in narrow]


def _output_projections(model: ir.Model) -> set[ir.Node]:
    """The products that take what an attention's softmax has weighed, with all heads side by side.

    Raises RuntimeError if there are none.
    """
    nodes = {node for node in model.graph if node.op_type == "MatMul" and _is_weighed(node.inputs[0])}
    if not nodes:
        raise RuntimeError("the graph has no self-attention as export.graphs.served_graph writes it")
    return nodes


def _is_weighed(value: ir.Value | None) -> bool:
    """Whether `value` is a product with a softmax, in another order or shape."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Reshape", "Transpose"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    weights = node.inputs[0] if node is not None and node.op_type == "MatMul" else None
    return weights is not None and getattr(weights.producer(), "op_type", None) == "Softmax"


def _cross_attention(model: ir.Model) -> set[ir.Node]:
    """The nodes between the blocks of one multi-scale encoder and those of the next, which compute CLS only.

    Nodes are in the order of the network, whose parameters keep their names. Raises RuntimeError if that has changed.
    """
    nodes = set()
    inside = False
    for node in model.graph:
        for value in node.inputs:
            module = (
                _MODULE_OF_PARAMETER.match(str(value.name)) if value is not None and value.is_initializer() else None
            )
            if module is not None:
                inside = module[1] in ("projs", "fusion", "revert_projs")
        if inside:
            nodes.add(node)
    if not nodes:
        raise RuntimeError("the graph has no cross-attention with the names that export.graphs.served_graph gives")
    return nodes


def _unsigned(model: ir.Model) -> None:
    """Store activations with a non-zero zero point as uint8, not int8, in place; dequantised values are unchanged.

    NNCF writes them as int8, and OpenVINO's products of signed values with an offset are 5 % slower.
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
