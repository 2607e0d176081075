"""The manifest of a bundle that was just made."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from bundle.atomic_files import file_sha256
from bundle.bundle_errors import BadBundle, first_error
from bundle.file_names import GOLDEN, INSPECTION, LABELS, MODEL
from bundle.manifest import MANIFEST_FORMAT, Manifest, WeightsInfo
from bundle.tensors import INPUT, OUTPUTS
from export.inputs.export_request import ExportInputs
from export.making.added_graphs import AddedGraphs
from export.making.graph_source import GraphProof, NetworkToServe
from model.spec import Preprocessing


def manifest_of(
    folder: Path,
    inputs: ExportInputs,
    network: NetworkToServe,
    preprocessing: dict[int, Preprocessing],
    proof: GraphProof,
    added: AddedGraphs,
    built_with: dict[str, str],
) -> Manifest:
    """The manifest of the bundle in `folder`. Raises BadBundle if no service could serve it."""
    weights = inputs.weights
    try:
        return Manifest(
            format=MANIFEST_FORMAT,
            variant=inputs.request.variant.name,
            input=INPUT,
            outputs=OUTPUTS,
            mean=inputs.normalization.mean,
            std=inputs.normalization.std,
            activation=inputs.request.options.activation,
            preprocessing=preprocessing,
            weights=WeightsInfo(
                id=weights.id,
                source=weights.source,
                resolution=network.sides[1],
                sides=network.sides,
                caution=weights.caution,
            ),
            classes=network.classes,
            default_resolution=default_resolution(network, preprocessing),
            built_with=built_with,
            files={name: file_sha256(folder / name) for name in (MODEL, INSPECTION, LABELS, GOLDEN, *added.files)},
            parity=proof.parity,
            inspection=proof.inspection,
            measured_on=added.measured_on,
            precisions=added.halves,
            agreement=added.agreement,
            quantization=added.quantization,
        )
    except ValidationError as err:
        raise BadBundle(f"a bundle with these options could not be served: {first_error(err)}") from err


def default_resolution(network: NetworkToServe, preprocessing: Mapping[int, Preprocessing]) -> int:
    """The resolution that the network was trained at, if it is offered."""
    native = network.sides[1]
    return native if native in preprocessing else min(preprocessing)
