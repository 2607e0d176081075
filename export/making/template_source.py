"""The graph from a template that ships: needs no PyTorch, which has proven the template when it was made."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from bundle.golden import Golden
from bundle.manifest import Parity
from export.graphs.graph_template import fill_template
from export.graphs.shipped_templates import network_of, shipped_template, template_record
from export.inputs.export_request import ExportInputs
from export.making.graph_source import PARITY_TOLERANCE, GraphProof
from export.measurement.comparison import Disagreement
from export.measurement.golden_images import BATCHES, golden_answers
from export.measurement.onnx_sessions import onnxruntime_session
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

    def write_graph(self, path: Path) -> None:
        """Write the served graph, and let go of the parameters: the graph in ONNX Runtime holds them again."""
        template = shipped_template(self._network)
        graph = fill_template(template, self._parameters, self._inputs.normalization)
        self._parameters = {}
        onnx.save(graph, path)

    def prove(self, graph: Path, preprocessing: Mapping[int, Preprocessing], say: Say) -> GraphProof:
        """The golden logits are ONNX Runtime's; the parity is what was recorded when the template was made."""
        say("running the golden images in ONNX Runtime …")
        golden = golden_answers(onnxruntime_session(graph), preprocessing)
        _check_finite(golden)
        record = template_record()
        parity = Parity(
            reference=f"PyTorch {record.made_with['torch']}, float32, with weights made by a rule, when the graph "
            "template was made; these weights were not run in PyTorch",
            engine=f"{record.onnxruntime}, float32",
            batches=BATCHES,
            tolerance=PARITY_TOLERANCE,
            worst=record.worst[self._network],
        )
        return GraphProof(golden, parity)


class TemplateSource:
    """Networks whose graph templates ship."""

    def built_with(self, variant: Variant) -> dict[str, str]:
        packages = {package: version(package) for package in ("crossvit", "onnx", "onnxruntime")}
        return packages | {"graph_template": f"sha256:{template_record().templates[network_of(variant)]}"}

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


def _with_pytorch(variant: Variant, weights: str) -> str:
    return f"python export/to_onnx.py --variant {variant.name} --weights {weights}"
