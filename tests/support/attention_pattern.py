"""The attentions in a graph, each held against the nodes that TensorRT fuses into one kernel."""

from dataclasses import dataclass

import onnx_ir as ir

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Attention:
    """MatMul, [Cast,] Softmax, [Cast,] MatMul, with both products in the same type.

    Attributes:
        queries, keys, values: shapes of what enters the products, without the batch; keys are transposed.
        scale: the constant factor of the queries.
        scaled_directly: whether nothing lies between that factor and the first product.
    """

    queries: Shape
    keys: Shape
    values: Shape
    scale: float
    scaled_directly: bool


def attentions(model: ir.Model, dtype: ir.DataType, dimensions: int) -> list[Attention]:
    """Those whose weights have so many dimensions. Raises ValueError if one is not as Attention has it, in `dtype`."""
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    return [_match(node, dtype) for node in softmaxes if len(node.outputs[0].shape or ()) == dimensions]


def _match(softmax: ir.Node, dtype: ir.DataType) -> Attention:
    first, second = _before(softmax), _after(softmax)
    for product in (first, second):
        dtypes = {value.dtype for value in (*product.inputs, *product.outputs) if value is not None}
        if product.op_type != "MatMul" or dtypes != {dtype}:
            raise ValueError(f"{product} beside {softmax} is not a product in {dtype}")
    if softmax.attributes.get_int("axis", -1) != -1:
        raise ValueError(f"{softmax} is not over the tokens")
    queries, keys = first.inputs
    factor = _producer(first)
    while factor.op_type in ("Transpose", "Reshape", "MatMul"):
        factor = _producer(factor)
    return Attention(
        _shape(queries), _shape(keys), _shape(second.inputs[1]), _constant(factor), factor is _producer(first)
    )


def _before(softmax: ir.Node) -> ir.Node:
    node = _producer(softmax)
    return _producer(node) if node.op_type == "Cast" else node


def _after(softmax: ir.Node) -> ir.Node:
    node = _only_user(softmax)
    return _only_user(node) if node.op_type == "Cast" else node


def _producer(node: ir.Node) -> ir.Node:
    """What computes the first input; raises ValueError if another node needs it too, so that it has to be stored."""
    value = node.inputs[0]
    made_by = value.producer() if value else None
    if made_by is None:
        raise ValueError(f"{node} reads what is not computed")
    _only_user(made_by)
    return made_by


def _only_user(node: ir.Node) -> ir.Node:
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) != 1:
        raise ValueError(f"{node} has {len(users)} users")
    return users[0]


def _constant(factor: ir.Node) -> float:
    tensor = ir.convenience.get_const_tensor(factor.inputs[1]) if factor.op_type == "Mul" and factor.inputs[1] else None
    if tensor is None:
        raise ValueError(f"{factor} does not scale queries by a constant")
    return float(tensor.numpy())


def _shape(value: ir.Value | None) -> Shape:
    if value is None or value.shape is None:
        raise ValueError(f"{value} has no shape")
    return tuple(size for size in value.shape if isinstance(size, int))
