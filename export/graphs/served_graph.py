"""The graph that is served: pixels in, logits out, one for every batch size and side."""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import opset20 as op
from torch import Tensor, nn

from bundle.tensors import INPUT, OUTPUTS
from export.graphs.fixed_side import fold
from model.crossvit import CrossViT
from model.spec import IMAGENET, LARGEST_SIDE, LEAST_SIDE, Normalization

OPSET = 20


class Served(nn.Module):
    """`network` behind the host's pixels: normalisation, layout and resizing happen inside the graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: CrossViT, normalization: Normalization = IMAGENET) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(normalization.mean))
        self.register_buffer("std", 255 * torch.tensor(normalization.std))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 RGB (batch, side, side, 3) to logits (batch, classes): the answer, branch S, branch L."""
        images = ((image.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)
        small, large = self.network.forward_branches(images)
        return (small + large) / 2, small, large


def to_onnx(served: Served) -> ir.Model:
    """The ONNX graph of `served`, with a symbolic `batch` and `side`. Raises RuntimeError if either became a number."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    side = torch.export.Dim("side", min=LEAST_SIDE, max=LARGEST_SIDE)
    example = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.export.export(
            served,
            (example,),
            dynamic_shapes=({0: batch, 1: side, 2: side},),
            prefer_deferred_runtime_asserts_over_guards=True,  # the network keeps divisibility by 7 and 32
        )
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            optimize=False,  # `fold` does it
            verbose=False,
        )
        assert program is not None
        model = program.model
        fold(model)
    passes.ClearMetadataAndDocStringPass()(model)
    _name_dimensions(model)
    return model


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Suppress warnings that do not concern the user: torchvision is not installed, an operator was not folded."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _attention(q, k, v, *_, **__):  # type: ignore[no-untyped-def]
    """Scaled dot-product attention as MatMul, Softmax, MatMul, the pattern that the engines' fusions recognise.

    The scale goes onto the query *before* the first product.
    """
    q = op.Mul(q, op.Constant(value_float=1 / math.sqrt(q.shape[-1])))
    weights = op.Softmax(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])), axis=-1)
    return op.MatMul(weights, v)


def _name_dimensions(model: ir.Model) -> None:
    """Call the input's symbolic dimensions `batch` and `side`, there and in every shape derived from them.

    torch.export names them s40, s62 or the like. Raises RuntimeError if one was specialised to a number, which
    torch.export has done silently.
    """
    shape = model.graph.inputs[0].shape
    assert shape is not None
    batch, height, width, _ = (str(dimension) for dimension in shape)
    if batch.isdigit() or height.isdigit() or height != width:
        raise RuntimeError(f"the exported graph takes images of {shape} only; batch and side must be symbolic")
    names = {batch: "batch", height: "side"}
    rename = re.compile("|".join(rf"\b{name}\b" for name in names))
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(
                dimension if isinstance(dimension, int) else rename.sub(lambda match: names[match[0]], str(dimension))
                for dimension in value.shape
            )
