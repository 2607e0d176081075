"""What makes a bundle's graphs, and proves them: PyTorch, or graph templates that ship."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bundle.golden import Golden
from bundle.manifest import Parity
from export.inputs.export_request import ExportInputs
from model.checkpoint import Say
from model.spec import Preprocessing, Variant

PARITY_TOLERANCE = 1e-5  # between logits of PyTorch and ONNX Runtime


@dataclass(frozen=True)
class GraphProof:
    """The golden images with their logits, and how both graphs were compared with PyTorch."""

    golden: Mapping[int, Golden]
    parity: Parity
    inspection: Parity


class NetworkToServe(Protocol):
    """A network with its weights.

    Attributes:
        classes: of its head.
        sides: those of both branches (S, L) in pixels that its position embeddings were trained at.
        parameter_count: of the whole network.
    """

    classes: int
    sides: tuple[int, int]
    parameter_count: int

    def write_graphs(self, folder: Path) -> None:
        """Write the served graph and the inspection graph into `folder`; called once."""

    def prove(self, folder: Path, preprocessing: Mapping[int, Preprocessing], say: Say) -> GraphProof:
        """Run both graphs on photographs, the inspection graph at the least resolution.

        Raises Disagreement for logits that cannot be served, and for an inspection graph that answers otherwise.
        """


class GraphSource(Protocol):
    """Makes networks to serve."""

    def built_with(self, variant: Variant) -> dict[str, str]:
        """Versions of what makes the graph."""

    def network(self, inputs: ExportInputs, say: Say) -> NetworkToServe:
        """Raises WeightsUnavailable and BadCheckpoint."""
