"""Weights to a bundle: `python export/to_onnx.py --variant crossvit_18_dagger`.

The bundle is compared with PyTorch before it is put in place; docs/bundle.md describes its content.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple

import onnx
import onnx_ir
import typer
from pydantic import ValidationError

from bundle.agreement import Agreement
from bundle.atomic_files import file_sha256
from bundle.bundle_errors import BadBundle, ExplainedError, first_error
from bundle.class_labels import ClassLabel, bundle_labels, write_labels
from bundle.file_names import GOLDEN, GRAPHS, LABELS, MODEL
from bundle.golden import write_golden
from bundle.manifest import (
    MANIFEST_FORMAT,
    MAX_RESIZE,
    HalfPrecision,
    Manifest,
    Parity,
    Photographs,
    Quantization,
    WeightsInfo,
    write_manifest,
)
from bundle.precisions import INT8
from bundle.tensors import INPUT, OUTPUTS
from bundle.writer import replacing_bundle
from export.graphs.half_precision import DTYPES
from export.graphs.quantize import require_quantization
from export.graphs.served_graph import Served, to_onnx
from export.inputs import arguments
from export.inputs.export_request import ExportInputs, ExportOptions, ExportRequest, find_inputs
from export.inputs.if_changed import built_with, bundle_stays
from export.measurement.int8 import add_int8
from export.measurement.onnx_sessions import ONNX_RUNTIME
from export.measurement.openvino_precisions import agreements
from export.measurement.photos import NoPhotos
from export.measurement.pytorch_parity import BATCHES, references, worst_differences
from export.measurement.reduced_precision import MAX_MEASURED_VIEWS, add_precision, float32_answers
from model.checkpoint import BadCheckpoint
from model.command_line import Misuse, failures, new_app, run_command, spread
from model.config_beside import NAME as CONFIG
from model.config_beside import BadConfig
from model.crossvit import CrossViT
from model.labels import BadLabels, labels_for
from model.loaded_network import network_with
from model.spec import (
    IMAGENET,
    NORMALIZATIONS,
    SOFTMAX,
    UNTRAINED,
    VARIANTS,
    Activation,
    Normalization,
    Preprocessing,
    branch_sides,
    follow_from_one_side,
)
from model.weights import WeightsUnavailable

Triple = tuple[float, float, float]

TOLERANCE = 1e-5
_ERRORS = (ExplainedError, WeightsUnavailable, BadCheckpoint, BadLabels, BadConfig, NoPhotos, OverflowError, OSError)


class ResolutionSteps(NamedTuple):
    """The preprocessing at a resolution, as --preprocess has it."""

    resolution: int
    preprocessing: Preprocessing


@dataclass(frozen=True)
class AddedGraphs:
    """What the manifest says of the graphs beside float32.

    Attributes:
        halves: in half precision.
        measured_on: the photographs of all agreements; None without them.
        agreement: of the precisions that OpenVINO may serve in.
        quantization: how the graph in 8 bits was made; None without one.
    """

    measured_on: Photographs | None = None
    halves: dict[str, HalfPrecision] = field(default_factory=dict)
    agreement: dict[str, dict[int, Agreement]] = field(default_factory=dict)
    quantization: Quantization | None = None

    @property
    def files(self) -> list[str]:
        return [GRAPHS[precision] for precision in (*self.halves, *([INT8] if self.quantization else []))]


def _normalization(mean: Triple | None, std: Triple | None, name: str) -> Normalization | None:
    """The normalization of the options, if any. Raises Misuse if they contradict each other."""
    if name:
        if mean or std:
            raise Misuse("--normalize replaces --mean and --std: give either")
        return NORMALIZATIONS[name]
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise Misuse("--mean and --std belong together: give both")
    try:
        return Normalization(mean, std)
    except ValueError as err:
        raise Misuse(str(err)) from err


def _steps(text: str) -> ResolutionSteps:
    match = re.fullmatch(r"(\d+):(\d+)/(\d+)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not RESOLUTION:RESIZE/CROP, such as 224:274/240")
    resolution, resize, crop = arguments.resolution(match[1]), int(match[2]), int(match[3])
    if resize > MAX_RESIZE:
        raise typer.BadParameter(f"{text!r}: the resized image may have at most {MAX_RESIZE} pixels a side")
    if resize < crop or branch_sides(crop) != branch_sides(resolution):
        sides = "/".join(map(str, branch_sides(resolution)))
        raise typer.BadParameter(
            f"{text!r}: the crop must fit into the resized image, and lead to the branch sides {sides} of {resolution}"
        )
    return ResolutionSteps(resolution, Preprocessing(resize, crop))


_app = new_app()


@_app.command(help=__doc__)
def _from_options(
    variant: arguments.VariantOption,
    weights: Annotated[
        str,
        typer.Option(
            metavar="WEIGHTS",
            help="auto (local cache, else hub, else shipped, else untrained), pretrained (never untrained), "
            "one of these, a checkpoint, or hf:owner/name[@revision]",
        ),
    ] = "auto",
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="class names, one a line or as other tools write them (those beside the weights, else ImageNet-1k's)",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", readable=False, help="the bundle's folder (artifacts/VARIANT)")
    ] = None,
    resolutions: Annotated[
        list[int] | None,
        typer.Option(
            parser=arguments.resolution,
            metavar="N ...",
            help="resolutions that the service offers (224 384 480, and that of the checkpoint)",
        ),
    ] = None,
    preprocess: Annotated[
        list[ResolutionSteps] | None,
        typer.Option(
            parser=_steps,
            metavar="RESOLUTION:RESIZE/CROP",
            help="replaces the default at a resolution, such as 224:274/240, the protocol of the released code",
        ),
    ] = None,
    mean: Annotated[
        Triple | None,
        typer.Option(
            metavar="R G B",
            help="mean that the network was trained with, of pixels from 0 to 1 (ImageNet's 0.485 0.456 0.406)",
        ),
    ] = None,
    std: Annotated[
        Triple | None,
        typer.Option(metavar="R G B", help="standard deviation, likewise (ImageNet's 0.229 0.224 0.225)"),
    ] = None,
    normalize: Annotated[
        str,
        typer.Option(
            parser=arguments.choice(("", *NORMALIZATIONS)),
            metavar="NAME",
            show_default=False,
            help=f"mean and std by name: {', '.join(NORMALIZATIONS)}",
        ),
    ] = "",
    activation: Annotated[
        Activation,
        typer.Option(help="of the scores: sigmoid for one class, or for classes that do not exclude each other"),
    ] = SOFTMAX,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            parser=arguments.choice(DTYPES),
            metavar=f"{'|'.join(DTYPES)} ...",
            help="adds graphs in half precision, for GPUs",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            readable=False,
            help="photographs to measure precisions on (those shipped, or every second one of --calibration)",
        ),
    ] = None,
    quantize: Annotated[
        str,
        typer.Option(
            parser=arguments.choice(("", INT8)),
            metavar=INT8,
            show_default=False,
            help="adds a graph in 8 bits, which OpenVINO runs on CPUs; none if empty",
        ),
    ] = "",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            readable=False,
            help="photographs to calibrate int8 on; your own are better than those shipped",
        ),
    ] = None,
    if_changed: Annotated[
        bool,
        typer.Option("--if-changed", help="keep a bundle that was made from the same weights with the same options"),
    ] = False,
) -> None:
    if calibration is not None and quantize != INT8:
        raise Misuse("--calibration is for --quantize int8")
    if images is not None and not (precision or quantize):
        raise Misuse(
            "--images is for --precision and --quantize: float32 is compared with PyTorch on shipped photographs"
        )
    steps = dict(preprocess or [])
    if other := next((resolution for resolution in steps if resolutions and resolution not in resolutions), None):
        raise Misuse(f"--preprocess: {other} is not among --resolutions")
    options = ExportOptions(
        resolutions=tuple(resolutions) if resolutions else None,
        preprocessing=steps,
        normalization=_normalization(mean, std, normalize),
        activation=activation,
    )
    request = ExportRequest(
        variant=VARIANTS[variant],
        weights=weights,
        labels=Path(labels) if labels else None,
        out=out or Path("artifacts") / variant,
        options=options,
        precisions=tuple(precision or ()),
        photos=images,
        int8=quantize == INT8,
        calibration=calibration,
        if_changed=if_changed,
    )
    with failures(_ERRORS, interrupted=lambda: "nothing was changed"):
        export(request)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    return run_command(_app, spread(given, "--resolutions", "--precision"))


def export(request: ExportRequest) -> None:
    """Write the bundle of `request`, compared with PyTorch; any error leaves an existing bundle as it was."""
    started = time.monotonic()
    inputs = find_inputs(request, _say)
    if request.if_changed and bundle_stays(inputs, _say):
        return
    if request.int8:
        require_quantization()
    _announce(inputs)
    network = network_with(inputs.weights, request.variant, _say)
    _check_head(network.classes, request.options.activation)
    labels = _labels(request.labels or inputs.labels_beside, network.classes)
    preprocessing = inputs.steps(network.sides)
    _announce_sides(inputs, network, preprocessing)
    with replacing_bundle(request.out) as folder:
        write_labels(folder, labels)
        parity = _write_graph(folder, Served(network, inputs.normalization), preprocessing)
        added = _add_graphs(folder, inputs, preprocessing)
        write_manifest(folder, _manifest(folder, inputs, network, preprocessing, parity, added))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    seconds = time.monotonic() - started
    _say(f"{request.out}: {parameters / 1e6:.2f} M parameters, agrees with PyTorch, {seconds:.0f} s")


def _announce(inputs: ExportInputs) -> None:
    """Print what the bundle is made from, with warnings."""
    weights, normalization = inputs.weights, inputs.normalization
    _say(f"{inputs.request.variant.name}: weights {weights.id}, {weights.source}")
    if weights.caution:
        _say(f"WARNING: {weights.caution}")
    if weights.id == UNTRAINED:
        _say("WARNING: UNTRAINED weights: the answers of this bundle will mean nothing")
    if normalization != IMAGENET:
        origin = "--mean and --std" if inputs.request.options.normalization else f"{CONFIG} beside the weights"
        _say(f"note: pixels are normalised with mean {normalization.mean} and std {normalization.std} ({origin})")


def _check_head(classes: int, activation: str) -> None:
    """Raise BadCheckpoint for a head whose scores say nothing."""
    if classes == 1 and activation == SOFTMAX:
        raise BadCheckpoint(
            "the head has one class, and the softmax of a single logit is 1 for every image; give --activation sigmoid "
            "if it was trained with a binary cross-entropy"
        )


def _labels(path: Path | None, classes: int) -> list[ClassLabel]:
    """The labels in `path`, or ImageNet-1k's. Several classes of the same label are noted if a file was given."""
    labels = bundle_labels(labels_for(path, classes))
    shared = [name for name, count in Counter(label.label for label in labels).items() if count > 1]
    if path is not None and shared:
        _say(f"note: {len(shared)} labels belong to several classes, such as {shared[0]!r}; an index tells them apart")
    return labels


def _announce_sides(inputs: ExportInputs, network: CrossViT, preprocessing: Mapping[int, Preprocessing]) -> None:
    request, native = inputs.request, network.sides[1]
    for resolution, steps in preprocessing.items():
        if steps != request.options.steps(network.sides)[resolution]:
            _say(f"note: at {resolution} images are resized to {steps.resize} and cropped to {steps.crop} ({CONFIG})")
    if not follow_from_one_side(*network.sides):
        _say(f"note: these weights were trained with sides of {network.sides}, and are served only at them")
    elif native != request.variant.resolution:
        _say(f"note: these weights have the position embeddings of {native}; for other sides they are interpolated")
    if native not in preprocessing:
        _say(f"WARNING: {native}, which these weights were trained at, is not among --resolutions: accuracy falls")


def _write_graph(folder: Path, served: Served, preprocessing: Mapping[int, Preprocessing]) -> Parity:
    """Write the graph and the golden images. Raises Disagreement if ONNX Runtime answers otherwise than PyTorch."""
    _say("writing the graph …")
    onnx_ir.save(to_onnx(served), folder / MODEL)
    onnx.checker.check_model(folder / MODEL, full_check=True)
    _say("comparing ONNX Runtime with PyTorch …")
    golden = references(served, preprocessing)
    worst = worst_differences(golden, folder / MODEL, TOLERANCE, _say)
    write_golden(folder, golden)
    return Parity(
        reference=f"PyTorch {version('torch')}, float32",
        engine=f"{ONNX_RUNTIME}, float32",
        batches=BATCHES,
        tolerance=TOLERANCE,
        worst=worst,
    )


def _add_graphs(folder: Path, inputs: ExportInputs, preprocessing: Mapping[int, Preprocessing]) -> AddedGraphs:
    """Write the requested graphs beside float32, and compare them with it."""
    request = inputs.request
    if inputs.measuring is None:
        return AddedGraphs()
    _say("running float32 on photographs …")
    answers = float32_answers(folder / MODEL, preprocessing, inputs.measuring.files, request.options.activation)
    measured_on = inputs.measuring.for_manifest(MAX_MEASURED_VIEWS)
    halves = {}
    for precision in request.precisions:
        _say(f"writing the graph in {precision}, comparing it with float32 …")
        halves[precision] = add_precision(folder, precision, answers, _say)
    if inputs.calibrating is None:
        return AddedGraphs(measured_on, halves)
    quantization = add_int8(folder, preprocessing, inputs.calibrating, _say)
    return AddedGraphs(measured_on, halves, agreements(folder, answers, _say), quantization)


def _manifest(
    folder: Path,
    inputs: ExportInputs,
    network: CrossViT,
    preprocessing: dict[int, Preprocessing],
    parity: Parity,
    added: AddedGraphs,
) -> Manifest:
    """The manifest of the bundle in `folder`. Raises BadBundle if no service could serve it."""
    weights, native = inputs.weights, network.sides[1]
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
                resolution=native,
                sides=network.sides,
                caution=weights.caution,
            ),
            classes=network.classes,
            default_resolution=native if native in preprocessing else min(preprocessing),
            built_with=built_with(),
            files={name: file_sha256(folder / name) for name in (MODEL, LABELS, GOLDEN, *added.files)},
            parity=parity,
            measured_on=added.measured_on,
            precisions=added.halves,
            agreement=added.agreement,
            quantization=added.quantization,
        )
    except ValidationError as err:
        raise BadBundle(f"a bundle with these options could not be served: {first_error(err)}") from err


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
