"""The graph from PyTorch, and the proof that it gives PyTorch's logits for these weights."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import onnx

from bundle.manifest import Parity
from export.graphs.graph_template import fill_template
from export.graphs.served_graph import Served, make_template
from export.graphs.shipped_templates import fitting_template
from export.inputs.export_request import ExportInputs
from export.making.graph_source import GraphProof, Say
from export.measurement.golden_images import BATCHES, golden_answers
from export.measurement.onnx_sessions import ONNX_RUNTIME
from export.measurement.pytorch_parity import pytorch_answers, worst_differences
from model.loaded_network import network_with
from model.spec import Preprocessing, Variant, follow_from_one_side

TOLERANCE = 1e-5


class PyTorchNetwork:
    """A network in PyTorch behind the host's pixels."""

    def __init__(self, served: Served, inputs: ExportInputs) -> None:
        network = served.network
        self.classes, self.sides = network.classes, network.sides
        self.parameter_count = sum(parameter.numel() for parameter in network.parameters())
        self._served, self._inputs = served, inputs

    def write_graph(self, path: Path) -> None:
        parameters = {name: value.numpy() for name, value in self._served.network.state_dict().items()}
        shapes = {name: value.shape for name, value in parameters.items()}
        variant = self._inputs.request.variant
        template = fitting_template(variant, shapes, self.sides) or make_template(variant, self._fixed_sides)
        onnx.save(fill_template(template, parameters, self._inputs.normalization), path)

    @property
    def _fixed_sides(self) -> tuple[int, int] | None:
        return None if follow_from_one_side(*self.sides) else self.sides

    def prove(self, graph: Path, preprocessing: Mapping[int, Preprocessing], say: Say) -> GraphProof:
        say("comparing ONNX Runtime with PyTorch …")
        golden = golden_answers(pytorch_answers(self._served), preprocessing)
        worst = worst_differences(golden, graph, TOLERANCE, say)
        parity = Parity(
            reference=f"PyTorch {version('torch')}, float32",
            engine=f"{ONNX_RUNTIME}, float32",
            batches=BATCHES,
            tolerance=TOLERANCE,
            worst=worst,
        )
        return GraphProof(golden, parity)


class PyTorchSource:
    """Networks in PyTorch."""

    def built_with(self, variant: str) -> dict[str, str]:  # noqa: ARG002
        return {package: version(package) for package in ("crossvit", "torch", "onnx", "onnxscript")}

    def network(self, inputs: ExportInputs, say: Say) -> PyTorchNetwork:
        network = network_with(inputs.weights, inputs.request.variant, say)
        return PyTorchNetwork(Served(network, inputs.normalization), inputs)
