"""The graph from PyTorch, and the proof that it gives PyTorch's logits for these weights."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import onnx

from bundle.manifest import Parity
from export.graphs.graph_template import fill_template
from export.graphs.served_network import Served
from export.graphs.shipped_templates import network_of, shipped_template, sources_are_current
from export.inputs.export_request import ExportInputs
from export.making.graph_source import PARITY_TOLERANCE, GraphProof
from export.measurement.golden_images import BATCHES, golden_answers
from export.measurement.onnx_sessions import ONNX_RUNTIME
from export.measurement.pytorch_parity import pytorch_answers, worst_differences
from model.checkpoint import Say
from model.loaded_network import network_with
from model.spec import Preprocessing, Variant, follow_from_one_side


class PyTorchNetwork:
    """A network in PyTorch behind the host's pixels."""

    def __init__(self, served: Served, inputs: ExportInputs) -> None:
        network = served.network
        self.classes, self.sides = network.classes, network.sides
        self.parameter_count = sum(parameter.numel() for parameter in network.parameters())
        self._served, self._inputs = served, inputs

    def write_graph(self, path: Path) -> None:
        parameters = {name: value.numpy() for name, value in self._served.network.state_dict().items()}
        template = _template(self._inputs.request.variant, self.sides)
        onnx.save(fill_template(template, parameters, self._inputs.normalization), path)

    def prove(self, graph: Path, preprocessing: Mapping[int, Preprocessing], say: Say) -> GraphProof:
        say("comparing ONNX Runtime with PyTorch …")
        golden = golden_answers(pytorch_answers(self._served), preprocessing)
        worst = worst_differences(golden, graph, PARITY_TOLERANCE, say)
        parity = Parity(
            reference=f"PyTorch {version('torch')}, float32",
            engine=f"{ONNX_RUNTIME}, float32",
            batches=BATCHES,
            tolerance=PARITY_TOLERANCE,
            worst=worst,
        )
        return GraphProof(golden, parity)


class PyTorchSource:
    """Networks in PyTorch."""

    def built_with(self, variant: Variant) -> dict[str, str]:  # noqa: ARG002
        return {package: version(package) for package in ("crossvit", "torch", "onnx", "onnxscript")}

    def network(self, inputs: ExportInputs, say: Say) -> PyTorchNetwork:
        network = network_with(inputs.weights, inputs.request.variant, say)
        return PyTorchNetwork(Served(network, inputs.normalization), inputs)


def _template(variant: Variant, sides: tuple[int, int]) -> onnx.ModelProto:
    """The template that ships, unless the network has changed since; PyTorch makes others, in half a minute."""
    if follow_from_one_side(*sides) and sources_are_current():
        return shipped_template(network_of(variant))
    from export.graphs.served_graph import make_template  # imports onnxscript, which takes seconds

    return make_template(variant, None if follow_from_one_side(*sides) else sides)
