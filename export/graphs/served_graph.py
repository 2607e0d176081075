"""The graph that is served: pixels in, logits out, one for every batch size and side, as a template without weights.

The inspection graph is made of the same network, in the same way.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import opset20 as op
from torch import Tensor, nn

from bundle.inspection import CLASSES, INSPECTION_OUTPUTS
from bundle.tensors import INPUT, OUTPUTS
from export.graphs.folding import fold
from export.graphs.inspected_network import Inspected
from export.graphs.served_network import OnPixels, Served
from export.graphs.template_inputs import SYMBOLS
from model.crossvit import CrossViT
from model.spec import LARGEST_SIDE, LEAST_SIDE, PATCH_SIZES, Variant, branch_sides

OPSET = 20
_RANGES = {  # of the symbolic dimensions
    "batch": (1, 1024),
    "side": (LEAST_SIDE, LARGEST_SIDE),
    "classes": (2, 1 << 20),
    "k": (1, 1024),
    "grid_small": (2, LARGEST_SIDE // PATCH_SIZES[0]),
    "grid_large": (2, LARGEST_SIDE // PATCH_SIZES[1]),
}


def make_template(variant: Variant, sides: tuple[int, int] | None = None) -> onnx.ModelProto:
    """The graph template of `variant`, as export.graphs.graph_template describes it.

    `sides` (S, L) are those of the branches where these follow from no image side. Raises RuntimeError if a dimension
    that has to be symbolic became a number.
    """
    return _exported(Served(_OpenGrids(variant, sides)), {}, OUTPUTS)


def make_inspection_template(variant: Variant, sides: tuple[int, int] | None = None) -> onnx.ModelProto:
    """The same of the inspection graph, whose tensors are those of bundle.inspection."""
    classes = torch.zeros(2, 2, dtype=torch.int64)
    return _exported(Inspected(_OpenGrids(variant, sides)), {CLASSES: classes}, INSPECTION_OUTPUTS)


def _exported(network: OnPixels, beside: Mapping[str, Tensor], outputs: Sequence[str]) -> onnx.ModelProto:
    """`network` as a template; `beside` has what it takes beside two images."""
    network.eval()
    parameters = network.state_dict()
    images = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.export.export(
            _OfParameters(network),
            (images, parameters, *beside.values()),
            dynamic_shapes=_dynamic_shapes(parameters, beside),
            prefer_deferred_runtime_asserts_over_guards=True,  # the network keeps divisibility by 7 and 32
        )
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT, *parameters, *beside],
            output_names=list(outputs),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            optimize=False,  # `fold` does it
            verbose=False,
        )
        assert program is not None
        model = program.model
        fold(model)
    passes.ClearMetadataAndDocStringPass()(model)
    _name_dimensions(model)
    return ir.to_proto(model)


class _SplitPositions(nn.Module):
    """Position embeddings (1, 1 + grid², C) as that of CLS and a map: the grid is a dimension, and no square root."""

    def __init__(self, positions: Tensor) -> None:
        super().__init__()
        grid = math.isqrt(positions.shape[1] - 1)
        self.cls = nn.Parameter(positions[:, :1].clone())
        self.grid = nn.Parameter(positions[:, 1:].transpose(1, 2).unflatten(-1, (grid, grid)).contiguous())


class _OpenGrids(CrossViT):
    """`variant` for position embeddings of any grid, with the fewest classes that stay symbolic in torch.export."""

    def __init__(self, variant: Variant, sides: tuple[int, int] | None) -> None:
        super().__init__(variant, classes=2)
        self._fixed_sides = sides
        self.positions = nn.ModuleList(_SplitPositions(table.detach()) for table in self.pos_embed)
        del self.pos_embed

    def branch_sides(self, side: int) -> tuple[int, int]:
        return self._fixed_sides or branch_sides(side)

    def _positions(self, branch: int) -> tuple[Tensor, Tensor]:
        split = self.positions[branch]
        assert isinstance(split, _SplitPositions)
        return split.cls, split.grid


class _OfParameters(nn.Module):
    """`network` as a function of pixels, of its own parameters, and of classes if it takes these too."""

    def __init__(self, network: OnPixels) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, so it is no submodule: its parameters are inputs, not state

    def forward(
        self, image: Tensor, parameters: dict[str, Tensor], classes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        inputs = (image,) if classes is None else (image, classes)
        return tuple(torch.func.functional_call(self._network[0], parameters, inputs, strict=True))


def _dynamic_shapes(parameters: Iterable[str], beside: Iterable[str]) -> tuple[object, ...]:
    """The symbolic dimensions of the image, of `parameters` and of the inputs `beside`, for torch.export."""
    dimensions = {name: torch.export.Dim(name, min=least, max=most) for name, (least, most) in _RANGES.items()}
    shapes: dict[str, dict[int, torch.export.Dim]] = {name: {} for name in (INPUT, *parameters, *beside)}
    for (name, index), symbol in SYMBOLS.items():
        if name in shapes:
            shapes[name][index] = dimensions[symbol]
    return shapes.pop(INPUT), {name: shapes[name] for name in parameters}, *(shapes[name] for name in beside)


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
    """Give the symbolic dimensions of the inputs their names, there and in every shape derived from them.

    torch.export names them s40, s62 or the like. Raises RuntimeError if one was specialised to a number, which
    torch.export has done silently.
    """
    inputs = {value.name: value.shape for value in model.graph.inputs}
    names: dict[str, str] = {}
    symbols = {place: name for place, name in SYMBOLS.items() if place[0] in inputs}
    for (input_name, index), name in symbols.items():
        shape = inputs[input_name]
        assert shape is not None
        if isinstance(shape[index], int) or names.setdefault(str(shape[index]), name) != name:
            raise RuntimeError(f"dimension {index} of {input_name} must be symbolic, and is {shape[index]}")
    if len(names) != len(set(symbols.values())):
        raise RuntimeError(f"dimensions that must be equal are not: {names}")
    rename = re.compile("|".join(rf"\b{name}\b" for name in names))
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(
                dimension if isinstance(dimension, int) else rename.sub(lambda match: names[match[0]], str(dimension))
                for dimension in value.shape
            )
