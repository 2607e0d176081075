"""The graph from PyTorch, and the proof that it gives PyTorch's logits for these weights."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from bundle.file_names import INSPECTION, MODEL
from bundle.manifest import Parity
from export.graphs.graph_template import Templates
from export.graphs.inspected_network import Inspected
from export.graphs.served_network import Served
from export.graphs.shipped_templates import network_of, sources_are_current, templates_of
from export.inputs.export_request import ExportInputs
from export.making.bundle_graphs import write_graphs
from export.making.graph_source import PARITY_TOLERANCE, GraphProof
from export.measurement.golden_images import BATCHES, golden_answers
from export.measurement.inspection_parity import inspection_difference
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

    def write_graphs(self, folder: Path) -> None:
        parameters = {name: value.numpy() for name, value in self._served.network.state_dict().items()}
        templates = _templates(self._inputs.request.variant, self.sides)
        write_graphs(folder, templates, parameters, self._inputs.normalization)

    def prove(self, folder: Path, preprocessing: Mapping[int, Preprocessing], say: Say) -> GraphProof:
        say("comparing ONNX Runtime with PyTorch …")
        golden = golden_answers(pytorch_answers(self._served), preprocessing)
        worst = worst_differences(golden, folder / MODEL, PARITY_TOLERANCE, say)
        inspected, least = Inspected(self._served.network, self._inputs.normalization), min(golden)
        difference = inspection_difference(inspected, golden[least].images, folder / INSPECTION, PARITY_TOLERANCE)
        return GraphProof(golden, _parity(worst), _parity({least: difference}))


class PyTorchSource:
    """Networks in PyTorch."""

    def built_with(self, variant: Variant) -> dict[str, str]:  # noqa: ARG002
        return {package: version(package) for package in ("crossvit", "torch", "onnx", "onnxscript")}

    def network(self, inputs: ExportInputs, say: Say) -> PyTorchNetwork:
        network = network_with(inputs.weights, inputs.request.variant, say)
        return PyTorchNetwork(Served(network, inputs.normalization), inputs)


def _parity(worst: dict[int, float]) -> Parity:
    return Parity(
        reference=f"PyTorch {version('torch')}, float32",
        engine=f"{ONNX_RUNTIME}, float32",
        batches=BATCHES,
        tolerance=PARITY_TOLERANCE,
        worst=worst,
    )


def _templates(variant: Variant, sides: tuple[int, int]) -> Templates:
    """The templates that ship, unless the network has changed since; PyTorch makes others, in a minute."""
    if follow_from_one_side(*sides) and sources_are_current():
        return templates_of(network_of(variant))
    from export.graphs import served_graph  # imports onnxscript, which takes seconds

    fixed_sides = None if follow_from_one_side(*sides) else sides
    return Templates(
        served_graph.make_template(variant, fixed_sides), served_graph.make_inspection_template(variant, fixed_sides)
    )
