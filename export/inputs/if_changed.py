"""`--if-changed`: whether the bundle that exists stays."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bundle.atomic_files import file_sha256
from bundle.bundle_errors import BadBundle
from bundle.class_labels import bundle_labels, parse_labels
from bundle.file_names import INSPECTION, LABELS, MANIFEST
from bundle.manifest import Manifest, WeightsInfo, parse_manifest, read_manifest_head
from bundle.precisions import INT8
from export.graphs.quantization_recipe import CALIBRATION_VIEWS, is_current
from export.inputs.export_request import ExportInputs
from export.measurement.float32_answers import MAX_MEASURED_VIEWS
from model.checkpoint import BadCheckpoint
from model.labels import labels_for
from model.spec import UNTRAINED, branch_sides
from model.weights import AUTO, PRETRAINED, SHIPPED_SOURCE, WeightsUnavailable


def bundle_stays(inputs: ExportInputs, built_with: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """Whether the existing bundle is whole, has the requested graphs and was made from the same by the same versions.

    A bundle with better weights stays if "auto" or "pretrained" does not find them now: raises WeightsUnavailable if
    other things that were requested have changed since.
    """
    request, weights = inputs.request, inputs.weights
    head = read_manifest_head(request.out)
    if head is None or head.weights is None:
        return False
    manifest = _manifest(request.out)
    has_same_weights = head.weights.id == weights.id
    labels = request.labels or (inputs.labels_beside if has_same_weights else None)
    is_same = manifest is not None and _is_same(request.out, manifest, inputs, labels)
    has_graphs = manifest is not None and _has_graphs(manifest, inputs)
    if is_same and has_graphs and has_same_weights and manifest is not None and manifest.built_with == built_with:
        say(f"{request.out} is up to date")
        return True
    is_better = _rank(head.weights.id, head.weights.source) > _rank(weights.id, weights.source)
    if request.weights not in (AUTO, PRETRAINED) or head.variant != request.variant.name or not is_better:
        return False
    if not is_same:
        raise WeightsUnavailable(
            f"{request.out} was made from better weights, which are not available now, so it cannot be exported again "
            "with the changes; give the weights with --weights, or remove the folder"
        )
    lacking = "" if has_graphs else "; the requested graphs that it lacks cannot be added without them"
    say(f"{request.out} stays as it is: it has better weights than are available now{lacking}")
    return True


def _manifest(bundle: Path) -> Manifest | None:
    """None if it is damaged, or of another format."""
    try:
        return parse_manifest((bundle / MANIFEST).read_bytes(), bundle / MANIFEST)
    except (OSError, BadBundle):
        return None


def _is_same(bundle: Path, manifest: Manifest, inputs: ExportInputs, labels: Path | None) -> bool:
    """Whether the files are whole, and made with the requested options."""
    options, normalization = inputs.request.options, inputs.normalization
    sides = _trained_sides(manifest.weights)
    try:
        existing_labels = parse_labels((bundle / LABELS).read_bytes(), bundle / LABELS, manifest.classes)
        return (
            manifest.variant == inputs.request.variant.name
            and (manifest.mean, manifest.std) == (normalization.mean, normalization.std)
            and manifest.activation == options.activation
            and sides is not None
            and manifest.preprocessing == inputs.steps(sides)
            and existing_labels == bundle_labels(labels_for(labels, manifest.classes))
            and all(file_sha256(bundle / name) == digest for name, digest in manifest.files.items())
        )
    except (OSError, ValueError, BadBundle, BadCheckpoint):  # ValueError: the labels' file
        return False


def _has_graphs(manifest: Manifest, inputs: ExportInputs) -> bool:
    """Whether the requested graphs are there, made and measured on the photographs that were given, if any.

    Bundles of earlier versions lack the inspection graph.
    """
    request = inputs.request
    if INSPECTION not in manifest.files:
        return False
    if inputs.measuring is None:
        return True
    if manifest.measured_on is None or not set(request.precisions) <= manifest.precisions.keys():
        return False
    if (request.photos or request.calibration) and manifest.measured_on != inputs.measuring.for_manifest(
        MAX_MEASURED_VIEWS
    ):
        return False
    if inputs.calibrating is None:
        return True
    if INT8 not in manifest.agreement or not is_current(manifest.quantization):
        return False
    if request.calibration is None or manifest.quantization is None:
        return True
    return manifest.quantization.photographs == inputs.calibrating.for_manifest(CALIBRATION_VIEWS)


def _trained_sides(weights: WeightsInfo) -> tuple[int, int] | None:
    """The sides (S, L) that the weights were trained at; earlier versions wrote the resolution only."""
    if weights.sides is not None or weights.resolution is None:
        return weights.sides
    return branch_sides(weights.resolution)


def _rank(weights_id: str, source: str) -> int:
    """How good weights are: random ones, those that ship with the project, all others."""
    return 0 if weights_id == UNTRAINED else 1 if source == SHIPPED_SOURCE else 2
