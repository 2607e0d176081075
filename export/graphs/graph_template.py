"""Graph templates: the served or the inspection graph without weights, and the weights put in. Needs no PyTorch.

A template is a valid ONNX model whose inputs are those of the graph and all parameters of the network. Symbolic
dimensions are those of the image, the number of classes and the grids of the position embeddings, so that one template
serves every fine-tuned head and every trained resolution. Position embeddings are split into that of CLS and a map of
the others.
"""

from collections.abc import Mapping, Set
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from export.graphs.template_inputs import REQUEST_INPUTS, ParameterValues, checked_sizes, template_inputs
from model.spec import Normalization


class Templates(NamedTuple):
    """Both of a network."""

    served: onnx.ModelProto
    inspection: onnx.ModelProto


def fill_template(
    template: onnx.ModelProto, parameters: ParameterValues, normalization: Normalization
) -> onnx.ModelProto:
    """The graph of `template` with `parameters`, by IBM's names, which sees pixels through `normalization`.

    What depends on parameters alone is computed here, once. A parameter that a node uses as it is keeps its name.
    Raises MisfitParameters if a name or a shape is not the template's.
    """
    values = template_inputs(parameters, normalization)
    sizes = checked_sizes(template.graph, values)
    prepared, served = _divided(template.graph, values)
    used = {name for node in served for name in node.input}
    values |= _computed(template, prepared, values, used)
    graph = onnx.helper.make_graph(
        served,
        template.graph.name,
        inputs=[value for value in template.graph.input if value.name in REQUEST_INPUTS],
        outputs=[_resolved(value, sizes) for value in template.graph.output],
        initializer=[tensor for tensor in template.graph.initializer if tensor.name in used],
        value_info=_known_shapes(template.graph, served, sizes),
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=template.opset_import,
        ir_version=template.ir_version,
        producer_name=template.producer_name,
        producer_version=template.producer_version,
    )
    for name in [name for name in values if name in used]:  # last and one at a time: they are copied once
        _add_initializer(model.graph, name, values.pop(name))
    return model


def _divided(graph: onnx.GraphProto, values: ParameterValues) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that depend on parameters alone, and all others."""
    known = {"", *values, *(tensor.name for tensor in graph.initializer)}
    prepared, served = [], []
    for node in graph.node:
        if known.issuperset(node.input):
            prepared.append(node)
            known.update(node.output)
        else:
            served.append(node)
    return prepared, served


def _computed(
    template: onnx.ModelProto, nodes: list[onnx.NodeProto], values: ParameterValues, used: Set[str]
) -> dict[str, NDArray[np.float32]]:
    """What `nodes` compute of `values`, as far as it is `used` elsewhere."""
    read = {name for node in nodes for name in node.input}
    made = [name for node in nodes for name in node.output if name in used]
    graph = onnx.helper.make_graph(
        nodes,
        "parameters",
        inputs=[value for value in template.graph.input if value.name in read],
        outputs=[onnx.ValueInfoProto(name=name) for name in made],
        initializer=[tensor for tensor in template.graph.initializer if tensor.name in read],
    )
    model = onnx.helper.make_model(graph, opset_imports=template.opset_import, ir_version=template.ir_version)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False  # each weight's memory is returned as soon as it is computed
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(made, session.run(made, {name: values[name] for name in values if name in read}), strict=True))


def _resolved(value: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> onnx.ValueInfoProto:
    """`value` with numbers for the dimensions in `sizes`."""
    resolved = onnx.ValueInfoProto()
    resolved.CopyFrom(value)
    for dimension in resolved.type.tensor_type.shape.dim:
        if dimension.dim_param in sizes:
            dimension.dim_value = sizes[dimension.dim_param]
    return resolved


def _known_shapes(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], sizes: Mapping[str, int]
) -> list[onnx.ValueInfoProto]:
    """The shapes that the template has of what `nodes` compute."""
    made = {name for node in nodes for name in node.output}
    return [_resolved(value, sizes) for value in graph.value_info if value.name in made]


def _add_initializer(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> None:
    tensor = graph.initializer.add(name=name, dims=value.shape, raw_data=value.tobytes())
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
