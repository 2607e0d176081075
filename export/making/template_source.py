"""The graph from a template that ships: needs no PyTorch, which has proven the template when it was made."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bundle.file_names import INSPECTION, MODEL
from bundle.golden import Golden
from bundle.manifest import Parity
from bundle.tensors import OUTPUTS
from export.graphs.shipped_templates import network_of, template_record, templates_of
from export.inputs.export_request import ExportInputs
from export.making.bundle_graphs import write_graphs
from export.making.graph_source import PARITY_TOLERANCE, GraphProof
from export.measurement.comparison import Disagreement
from export.measurement.golden_images import BATCHES, golden_answers
from export.measurement.onnx_sessions import inspection_session, onnxruntime_session
from model.checkpoint import BadCheckpoint, NetworkParameters, Say, read_parameters
from model.spec import PATCH_SIZES, Preprocessing, Variant, follow_from_one_side
from model.variant_fit import position_grids
from model.weights import WeightsUnavailable


class FilledTemplate:
    """A network whose parameters are put into its graph template."""

    def __init__(self, parameters: NetworkParameters, inputs: ExportInputs) -> None:
        variant = inputs.request.variant
        self.classes = len(parameters["head.0.bias"])
        self.sides = _sides(parameters, variant)
        self.parameter_count = sum(value.size for value in parameters.values())
        self._parameters, self._inputs = parameters, inputs
        self._network = network_of(variant)

    def write_graphs(self, folder: Path) -> None:
        """Write both graphs, and let go of the parameters: the graph in ONNX Runtime holds them again."""
        write_graphs(folder, templates_of(self._network), self._parameters, self._inputs.normalization)
        self._parameters = {}

    def prove(self, folder: Path, preprocessing: Mapping[int, Preprocessing], say: Say) -> GraphProof:
        """The golden logits are ONNX Runtime's; the parity is what was recorded when the template was made."""
        say("running the golden images in ONNX Runtime …")
        golden = golden_answers(onnxruntime_session(folder / MODEL), preprocessing)
        _check_finite(golden)
        _check_inspection(folder / INSPECTION, golden[min(golden)])
        record = template_record()
        return GraphProof(golden, _parity(record.worst[self._network]), _parity(record.inspection_worst[self._network]))


class TemplateSource:
    """Networks whose graph templates ship."""

    def built_with(self, variant: Variant) -> dict[str, str]:
        packages = {package: version(package) for package in ("crossvit", "onnx", "onnxruntime")}
        record, network = template_record(), network_of(variant)
        return packages | {
            "graph_template": f"sha256:{record.templates[network]}",
            "inspection_template": f"sha256:{record.inspection_templates[network]}",
        }

    def network(self, inputs: ExportInputs, say: Say) -> FilledTemplate:
        weights, variant = inputs.weights, inputs.request.variant
        if weights.path is None:
            raise WeightsUnavailable(f"random weights are PyTorch's: {_with_pytorch(variant, 'untrained')}")
        network = FilledTemplate(read_parameters(weights.path, variant, say), inputs)
        if not follow_from_one_side(*network.sides):
            raise BadCheckpoint(
                f"these weights were trained with sides of {network.sides[0]} and {network.sides[1]}, which follow "
                f"from no image side: their graph needs PyTorch: {_with_pytorch(variant, str(weights.path))}"
            )
        return network


def _sides(parameters: NetworkParameters, variant: Variant) -> tuple[int, int]:
    grids = position_grids({name: value.shape for name, value in parameters.items()}, variant)
    return grids[0] * PATCH_SIZES[0], grids[1] * PATCH_SIZES[1]


def _check_finite(golden: Mapping[int, Golden]) -> None:
    """Raise Disagreement for logits that no weights that were trained give."""
    for resolution, answers in golden.items():
        if not np.isfinite(answers.logits).all():
            raise Disagreement(f"the logits of these weights at {resolution} are NaN or infinite")


def _check_inspection(graph: Path, golden: Golden) -> None:
    """Raise Disagreement if the inspection graph does not give the golden logits, or anything that is not finite."""
    best = golden.logits[0].argmax(axis=1)
    outputs = inspection_session(graph)(golden.images, best[:, None])
    difference = float(np.abs(np.stack(outputs[: len(OUTPUTS)]) - golden.logits).max())
    if not difference <= PARITY_TOLERANCE * max(1.0, float(np.abs(golden.logits).max())):  # NaN fails too
        raise Disagreement(f"the inspection graph gives other logits than the served one, by {difference:.1e}")
    if not all(np.isfinite(output).all() for output in outputs):
        raise Disagreement("the contributions of these weights are NaN or infinite")


def _parity(worst: dict[int, float]) -> Parity:
    record = template_record()
    return Parity(
        reference=f"PyTorch {record.made_with['torch']}, float32, with weights made by a rule, when the graph "
        "template was made; these weights were not run in PyTorch",
        engine=f"{record.onnxruntime}, float32",
        batches=BATCHES,
        tolerance=PARITY_TOLERANCE,
        worst=worst,
    )


def _with_pytorch(variant: Variant, weights: str) -> str:
    return f"python export/to_onnx.py --variant {variant.name} --weights {weights}"
