"""Inputs of a graph template: their names, their symbolic dimensions, and a network's parameters as such inputs.

Beside the parameters these are the image, and for an inspection graph the classes to explain.
"""

import math
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from bundle.bundle_errors import ExplainedError
from bundle.inspection import CLASSES
from bundle.tensors import INPUT
from model.spec import Normalization

ParameterValues = Mapping[str, NDArray[np.float32]]

GRIDS = ("grid_small", "grid_large")
REQUEST_INPUTS = (INPUT, CLASSES)  # that come with a request
# The symbolic dimensions of a template: by an input's name and a dimension's number.
SYMBOLS = {
    (INPUT, 0): "batch",
    (INPUT, 1): "side",
    (INPUT, 2): "side",
    (CLASSES, 0): "batch",
    (CLASSES, 1): "k",
    ("network.head.0.weight", 0): "classes",
    ("network.head.0.bias", 0): "classes",
    ("network.head.1.weight", 0): "classes",
    ("network.head.1.bias", 0): "classes",
    ("network.positions.0.grid", 2): "grid_small",
    ("network.positions.0.grid", 3): "grid_small",
    ("network.positions.1.grid", 2): "grid_large",
    ("network.positions.1.grid", 3): "grid_large",
}


class MisfitParameters(ExplainedError):
    """The parameters are not those of the template's network."""


def template_inputs(parameters: ParameterValues, normalization: Normalization) -> dict[str, NDArray[np.float32]]:
    """`parameters` under the names of a template's inputs, with position embeddings split."""
    inputs = {
        "mean": np.float32(255) * np.array(normalization.mean, np.float32),
        "std": np.float32(255) * np.array(normalization.std, np.float32),
    }
    for name, value in parameters.items():
        kind, _, branch = name.partition(".")
        if kind == "pos_embed":
            grid = _grid(name, value)
            inputs[f"network.positions.{branch}.cls"] = value[:, :1]
            inputs[f"network.positions.{branch}.grid"] = np.ascontiguousarray(
                value[:, 1:].swapaxes(1, 2).reshape(1, -1, grid, grid)
            )
        else:
            inputs[f"network.{name}"] = value
    return inputs


def _grid(name: str, positions: NDArray[np.float32]) -> int:
    """Patches along one side of position embeddings (1, 1 + grid², C). Raises MisfitParameters."""
    grid = math.isqrt(positions.shape[1] - 1) if positions.ndim == 3 and positions.shape[1] > 1 else 0
    if grid == 0 or grid * grid + 1 != positions.shape[1]:
        raise MisfitParameters(f"{name} is {positions.shape}: its positions are not those of CLS and of a square grid")
    return grid


def checked_sizes(graph: onnx.GraphProto, values: ParameterValues) -> dict[str, int]:
    """What the symbolic dimensions of the parameters are. Raises MisfitParameters."""
    expected = {value.name: dimensions_of(value) for value in graph.input if value.name not in REQUEST_INPUTS}
    if differing := sorted(expected.keys() ^ values.keys()):
        known = "lack" if differing[0] in expected else "are not of this network, which has no"
        raise MisfitParameters(f"the parameters {known} {differing[0]} ({len(differing)} names differ)")
    sizes: dict[str, int] = {}
    for name, shape in expected.items():
        actual = values[name].shape
        fits = len(actual) == len(shape) and all(
            size == (sizes.setdefault(dimension, size) if isinstance(dimension, str) else dimension)
            for dimension, size in zip(shape, actual, strict=True)
        )
        if not fits or values[name].dtype != np.float32:
            wanted = tuple(_size(dimension, sizes) for dimension in shape)
            raise MisfitParameters(f"{name} is {values[name].dtype} {actual}, expected float32 {wanted}")
    return sizes


def _size(dimension: int | str, sizes: Mapping[str, int]) -> int:
    return sizes[dimension] if isinstance(dimension, str) else dimension


def dimensions_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
