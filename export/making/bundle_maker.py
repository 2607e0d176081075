"""One way of making a bundle, whatever its graph comes from."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx

from bundle.bundle_errors import ExplainedError
from bundle.calibration import keep_calibration
from bundle.class_labels import ClassLabel, bundle_labels, write_labels
from bundle.file_names import INSPECTION, MODEL
from bundle.golden import write_golden
from bundle.installation import require_packages
from bundle.manifest import write_manifest
from bundle.writer import check_bundle_place, replacing_bundle
from export.graphs.quantization_recipe import require_quantization
from export.inputs.export_request import ExportInputs, ExportRequest, find_inputs
from export.inputs.if_changed import bundle_stays
from export.making.added_graphs import add_graphs
from export.making.bundle_manifest import default_resolution, manifest_of
from export.making.graph_source import GraphSource
from export.measurement.photos import NoPhotos
from model.checkpoint import BadCheckpoint, Say
from model.config_beside import NAME as CONFIG
from model.config_beside import BadConfig
from model.labels import BadLabels, labels_for
from model.spec import IMAGENET, SOFTMAX, UNTRAINED, Preprocessing, follow_from_one_side
from model.weights import WeightsUnavailable

ID_CHARACTERS = len("sha256:") + 12  # enough to tell weights apart
MAKING_ERRORS = (
    ExplainedError,
    WeightsUnavailable,
    BadCheckpoint,
    BadLabels,
    BadConfig,
    NoPhotos,
    OverflowError,
    OSError,
)


class NoPlace(ExplainedError):
    """The bundle cannot be written to its place."""


def make_bundle(request: ExportRequest, source: GraphSource, say: Say) -> None:
    """Write the bundle of `request`, with the graphs of `source`; any error leaves an existing bundle as it was."""
    started = time.monotonic()
    with _writing_to(request.out):
        check_bundle_place(request.out)  # before anything is fetched
    inputs = find_inputs(request, say)
    if request.only_weights not in (None, inputs.weights.id):
        raise WeightsUnavailable("the weights have changed since the service loaded them: serve them anew for 8 bits")
    built_with = source.built_with(request.variant)
    if request.if_changed and bundle_stays(inputs, built_with, say):
        return
    if request.int8:
        require_quantization()
    if request.precisions:
        require_packages(("onnxscript",), "half-precision", "half precision")
    _announce(inputs, say)
    network = source.network(inputs, say)
    _check_head(network.classes, request.options.activation)
    labels = _labels(request.labels or inputs.labels_beside, network.classes, say)
    preprocessing = inputs.steps(network.sides)
    _announce_sides(inputs, network.sides, preprocessing, say)
    with _writing_to(request.out), replacing_bundle(request.out) as folder:
        write_labels(folder, labels)
        say("writing the graphs …")
        network.write_graphs(folder)
        for graph in (MODEL, INSPECTION):
            onnx.checker.check_model(folder / graph, full_check=True)
        proof = network.prove(folder, preprocessing, say)
        write_golden(folder, proof.golden)
        added = add_graphs(folder, inputs, preprocessing, default_resolution(network, preprocessing), say)
        manifest = manifest_of(folder, inputs, network, preprocessing, proof, added, built_with)
        write_manifest(folder, manifest)
        keep_calibration(request.out, folder, manifest)  # of the same weights it is still right
    seconds = time.monotonic() - started
    say(f"{request.out}: {network.parameter_count / 1e6:.2f} M parameters, {seconds:.0f} s")


@contextmanager
def _writing_to(bundle: Path) -> Iterator[None]:
    """Raise NoPlace for what keeps the bundle from being written, such as a full disk."""
    try:
        yield
    except OSError as err:
        raise NoPlace(
            f"{bundle} cannot be written: {err.strerror or err}; make room and give rights there, or choose another "
            "folder with --out, or with XDG_CACHE_HOME for the cache"
        ) from err


def _announce(inputs: ExportInputs, say: Say) -> None:
    """Tell what the bundle is made from, with warnings."""
    weights, normalization = inputs.weights, inputs.normalization
    say(f"{inputs.request.variant.name}: weights {weights.id[:ID_CHARACTERS]}, {weights.source}")
    if weights.caution:
        say(f"WARNING: {weights.caution}")
    if weights.id == UNTRAINED:
        say("WARNING: UNTRAINED weights: the answers of this bundle will mean nothing")
    if normalization != IMAGENET:
        origin = "--mean and --std" if inputs.request.options.normalization else f"{CONFIG} beside the weights"
        say(f"note: pixels are normalised with mean {normalization.mean} and std {normalization.std} ({origin})")


def _check_head(classes: int, activation: str) -> None:
    """Raise BadCheckpoint for a head whose scores say nothing."""
    if classes == 1 and activation == SOFTMAX:
        raise BadCheckpoint(
            "the head has one class, and the softmax of a single logit is 1 for every image; give --activation sigmoid "
            "if it was trained with a binary cross-entropy"
        )


def _labels(path: Path | None, classes: int, say: Say) -> list[ClassLabel]:
    """The labels in `path`, or ImageNet-1k's. Several classes of the same label are noted if a file was given."""
    labels = bundle_labels(labels_for(path, classes))
    shared = [name for name, count in Counter(label.label for label in labels).items() if count > 1]
    if path is not None and shared:
        say(f"note: {len(shared)} labels belong to several classes, such as {shared[0]!r}; an index tells them apart")
    return labels


def _announce_sides(
    inputs: ExportInputs, sides: tuple[int, int], preprocessing: Mapping[int, Preprocessing], say: Say
) -> None:
    native, asked = sides[1], inputs.request.options.steps(sides)
    for resolution, steps in preprocessing.items():
        if steps != asked[resolution]:
            say(f"note: at {resolution} images are resized to {steps.resize} and cropped to {steps.crop} ({CONFIG})")
    if not follow_from_one_side(*sides):
        say(f"note: these weights were trained with sides of {sides}, and are served only at them")
    elif native != inputs.request.variant.resolution:
        say(f"note: these weights have the position embeddings of {native}; for other sides they are interpolated")
    if native not in preprocessing:
        say(f"WARNING: {native}, which these weights were trained at, is not among --resolutions: accuracy falls")
