"""Weights to a bundle: `python export/to_onnx.py --variant crossvit_18_dagger`.

The bundle is proven against PyTorch before it is put in place; see docs/bundle.md for what is in it.
"""

import argparse
import dataclasses
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from bundle.tensors import INPUT, OUTPUTS
from bundle.writer import (
    FORMAT,
    GOLDEN,
    LABELS,
    MANIFEST,
    MODEL,
    NotABundle,
    read_manifest,
    replacing_bundle,
    sha256,
    write_json,
)
from export import arguments
from export.graphs.half import DTYPES
from export.graphs.quantize import NotInstalled, require
from export.graphs.served import Served, to_onnx
from export.measurement.agreement import Disagreement
from export.measurement.int8 import add_int8, calibration_id
from export.measurement.openvino_precisions import INT8, agreements
from export.measurement.photos import NoPhotos
from export.measurement.precision import add_precision, file_name, float32_answers
from export.measurement.proof import BATCH, ENGINE, record, references, worst_differences
from model.checkpoint import BadCheckpoint
from model.config_beside import NAME as CONFIG
from model.config_beside import BadConfig, config_beside, labels_in, normalization_in
from model.labels import BadLabels, LabelEntry, labels_for
from model.spec import (
    ACTIVATIONS,
    IMAGENET,
    NORMALIZATIONS,
    RESOLUTIONS,
    SOFTMAX,
    VARIANTS,
    Normalization,
    Preprocessing,
    Variant,
    branch_sides,
    follow_from_one_side,
    preprocessing_at,
)
from model.weights import SHIPPED_SOURCE, UNTRAINED, Weights, WeightsUnavailable, find_weights

TOLERANCE = 1e-5
_ERRORS = (
    *(WeightsUnavailable, BadCheckpoint, BadLabels, BadConfig, NotABundle, Disagreement, NoPhotos, NotInstalled),
    *(OverflowError, OSError),
)

# What a manifest means that does not say it, as those of earlier versions.
_UNSAID = {"mean": list(IMAGENET.mean), "std": list(IMAGENET.std), "activation": SOFTMAX}


@dataclass(frozen=True)
class ExportOptions:
    """What is asked for of the graph and its answers; None is what the checkpoint, or the file beside it, says.

    `preprocessing` is what differs from the default at some of the `resolutions`.
    """

    resolutions: tuple[int, ...] | None = None
    preprocessing: Mapping[int, Preprocessing] = field(default_factory=dict)
    normalization: Normalization | None = None
    activation: str = SOFTMAX

    def steps(self, sides: tuple[int, int]) -> dict[int, Preprocessing]:
        """How images are prepared at each resolution that is offered for a network that was trained at `sides` (S, L).

        BadCheckpoint if it can be served at these alone, and others are asked for.
        """
        native = sides[1]
        alone = not follow_from_one_side(*sides)
        if alone and {*(self.resolutions or ()), *self.preprocessing} - {native}:
            raise BadCheckpoint(
                f"these weights were trained with sides of {sides[0]} and {native}, which are not those "
                f"of another resolution: leave out --resolutions and --preprocess"
            )
        offered = sorted(self.resolutions or {*(() if alone else RESOLUTIONS), native})
        return {resolution: preprocessing_at(resolution) for resolution in offered} | dict(self.preprocessing)


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        export(
            VARIANTS[args.variant],
            choice=args.weights,
            labels=args.labels,
            out=args.out or Path("artifacts") / args.variant,
            wishes=ExportOptions(
                tuple(args.resolutions) if args.resolutions else None,
                dict(args.preprocess),
                args.normalization,
                args.activation,
            ),
            precisions=args.precision,
            photos=args.images,
            int8=args.quantize == INT8,
            calibration=args.calibration,
            if_changed=args.if_changed,
        )
    except _ERRORS as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what stood before still stands", file=sys.stderr)
        return 130
    return 0


def export(
    variant: Variant,
    *,
    choice: str,
    labels: Path | None,
    out: Path,
    wishes: ExportOptions,
    precisions: Sequence[str] = (),
    photos: Path | None = None,
    int8: bool = False,
    calibration: Path | None = None,
    if_changed: bool = False,
) -> None:
    """Write and prove the bundle of `variant` at `out`; any error leaves what stood there as it was.

    `choice` is as in model.weights.find_weights. `precisions` come beside float32, measured on the `photos` in a folder or on
    the shipped ones. So does `int8`, which is calibrated on photographs in the folder `calibration`, and measured on
    other views of them if there are no `photos`. With `if_changed` a bundle that was made from the same stays.
    """
    started = time.monotonic()
    calibrated_on = calibration_id(calibration) if int8 else None
    weights = find_weights(choice, variant, _say)
    config = config_beside(weights.path, variant) if weights.path else None
    normalization = wishes.normalization or (normalization_in(config) if config else None) or IMAGENET
    header = _header(variant, normalization, wishes.activation)
    beside = weights.labels or (
        weights.path.with_name(CONFIG) if weights.path and config and labels_in(config) else None
    )
    wanted = _has(out, precisions, calibrated_on, chosen=calibration is not None)
    if if_changed and _stays(out, header, wishes, weights, choice, labels, beside, wanted=wanted):
        return
    if int8:
        require()
    _say(f"{variant.name}: weights {weights.id}, {weights.source}")
    if weights.caution:
        _say(f"WARNING: {weights.caution}")
    if weights.id == UNTRAINED:
        _say("WARNING: UNTRAINED weights: the answers of this bundle will mean nothing")
    if normalization != IMAGENET:
        origin = "--mean and --std" if wishes.normalization else f"{CONFIG} beside the weights"
        _say(f"note: pixels are normalised with mean {normalization.mean} and std {normalization.std} ({origin})")
    network = weights.network(variant, say=_say)
    _check_head(network.classes, wishes.activation)
    names = labels_for(labels or beside, network.classes)
    for note in _notes(names, labels or beside):
        _say(note)
    native = network.sides[1]
    preprocessing = wishes.steps(network.sides)
    if not follow_from_one_side(*network.sides):
        _say(f"note: these weights were trained with sides of {network.sides}, and are served at them alone")
    elif native != variant.resolution:
        _say(f"note: these weights have the position embeddings of {native}; for other sides they are interpolated")
    if native not in preprocessing:
        _say(f"WARNING: {native}, which these weights were trained at, is not among --resolutions: accuracy falls")
    with replacing_bundle(out) as folder:
        _say("writing the graph …")
        served = Served(network, normalization)
        onnx_ir.save(to_onnx(served), folder / MODEL)
        onnx.checker.check_model(folder / MODEL, full_check=True)
        write_json(folder / LABELS, names)
        _say("comparing ONNX Runtime with PyTorch …")
        expected = references(served, preprocessing)
        worst = worst_differences(expected, folder / MODEL, TOLERANCE, _say)
        record(expected, folder / GOLDEN)
        halves = {}
        answers = {}
        if precisions or int8:
            _say("asking float32 about photographs …")
            answers = float32_answers(folder / MODEL, preprocessing, photos or calibration)
        for precision in precisions:
            _say(f"writing the graph in {precision}, comparing it with float32 …")
            halves[precision] = add_precision(folder, precision, answers, _say)
        quantization = add_int8(folder, preprocessing, calibration, _say) if int8 else None
        agreement = agreements(folder, answers, _say) if int8 else {}
        written = (MODEL, LABELS, GOLDEN, *map(file_name, halves), *([file_name(INT8)] if int8 else []))
        manifest = header | {
            "preprocessing": _described(preprocessing),
            "weights": {
                "id": weights.id,
                "source": weights.source,
                "resolution": native,
                "sides": list(network.sides),
                "caution": weights.caution,
            },
            "classes": len(names),
            "default_resolution": native if native in preprocessing else min(preprocessing),
            "built_with": _built_with(),
            "files": {name: sha256(folder / name) for name in written},
            "parity": {
                "reference": f"PyTorch {version('torch')}, float32",
                "engine": f"{ENGINE}, float32",
                "batches": [1, BATCH],
                "tolerance": TOLERANCE,
                "worst": {str(resolution): difference for resolution, difference in worst.items()},
            },
            "precisions": halves,
            "agreement": agreement,
        }
        if quantization is not None:
            manifest["quantization"] = quantization
        write_json(folder / MANIFEST, manifest)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _say(f"{out}: {parameters / 1e6:.2f} M parameters, proven, {time.monotonic() - started:.0f} s")


def _header(variant: Variant, normalization: Normalization, activation: str) -> dict[str, Any]:
    """What is known of a bundle before its weights are read."""
    return {
        "format": FORMAT,
        "variant": variant.name,
        "input": INPUT,
        "outputs": list(OUTPUTS),
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "activation": activation,
    }


def _described(preprocessing: Mapping[int, Preprocessing]) -> dict[str, dict[str, int]]:
    return {str(resolution): dataclasses.asdict(steps) for resolution, steps in preprocessing.items()}


def _check_head(classes: int, activation: str) -> None:
    """BadCheckpoint for a head whose scores say nothing."""
    if classes == 1 and activation == SOFTMAX:
        raise BadCheckpoint(
            "the head has one class, and the softmax of a single logit is 1 for every image; give --activation sigmoid "
            "if it was trained with a binary cross-entropy"
        )


def _notes(labels: Sequence[LabelEntry], given: Path | None) -> list[str]:
    """What whoever gave the labels should know of them."""
    shared = [name for name, count in Counter(label["label"] for label in labels).items() if count > 1]
    if given is None or not shared:
        return []
    return [
        f"note: {len(shared)} labels are those of several classes, such as {shared[0]!r}; an index tells them apart"
    ]


def _built_with() -> dict[str, str]:
    return {package: version(package) for package in ("crossvit", "torch", "onnx", "onnxscript")}


def _has(out: Path, precisions: Sequence[str], calibrated_on: str | None, *, chosen: bool) -> bool:
    """Whether the bundle at `out` has the graphs that are asked for, in int8 calibrated on what was `chosen`, if so."""
    standing = read_manifest(out)
    if standing is None or not set(precisions) <= set(standing.get("precisions", ())):
        return False
    if calibrated_on is None:
        return True
    quantization = standing.get("quantization")
    if not isinstance(quantization, dict) or INT8 not in standing.get("agreement", ()):
        return False
    return not chosen or quantization.get("photographs_sha256") == calibrated_on


def _stays(
    out: Path,
    header: dict[str, Any],
    wishes: ExportOptions,
    weights: Weights,
    choice: str,
    labels: Path | None,
    beside: Path | None,
    *,
    wanted: bool,
) -> bool:
    """Whether the bundle at `out` is whole, has what is `wanted` and was made from the same by the same versions.

    Better weights stay where "auto" finds none such now: WeightsUnavailable if what was asked for has changed since.
    """
    standing = read_manifest(out)
    if standing is None:
        return False
    made_from = standing.get("weights")
    if not isinstance(made_from, dict) or "id" not in made_from:
        return False
    same_weights = made_from["id"] == weights.id
    same = _is_same(out, _UNSAID | standing, header, wishes, labels or (beside if same_weights else None))
    if same and wanted and same_weights and standing.get("built_with") == _built_with():
        _say(f"{out} is up to date")
        return True
    if choice == "auto" and standing.get("variant") == header["variant"] and _worth(made_from) > _worth(vars(weights)):
        if not same:
            raise WeightsUnavailable(
                f"{out} was made from better weights which are not to be had now, so it cannot be made anew with what "
                "has changed since; give them with --weights, or remove the folder"
            )
        lacking = "" if wanted else "; so it cannot get the graphs either that it lacks of those asked for"
        _say(f"{out} stays as it is: it has better weights than are to be had now{lacking}")
        return True
    return False


def _is_same(
    out: Path, standing: dict[str, Any], header: dict[str, Any], wishes: ExportOptions, labels: Path | None
) -> bool:
    try:
        return (
            all(standing[key] == value for key, value in header.items())
            and standing["preprocessing"] == _described(wishes.steps(_sides(standing["weights"])))
            and json.loads((out / LABELS).read_text()) == labels_for(labels, standing["classes"])
            and all(sha256(out / name) == digest for name, digest in standing["files"].items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BadCheckpoint):
        return False  # damaged, or of another format


def _sides(made_from: Mapping[str, Any]) -> tuple[int, int]:
    """The sides (S, L) that the weights of a bundle were trained at; earlier versions knew those of one side alone."""
    small, large = made_from.get("sides") or branch_sides(made_from["resolution"])
    return small, large


def _worth(weights: Mapping[str, Any]) -> int:
    """How good weights are: random ones, those that ship with the project, all others."""
    return 0 if weights.get("id") == UNTRAINED else 1 if weights.get("source") == SHIPPED_SOURCE else 2


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", required=True, type=arguments.variant, metavar="NAME", help=arguments.VARIANT_HELP)
    parser.add_argument(
        "--weights",
        default="auto",
        help="auto (local cache, else Hugging Face hub, else shipped, else untrained), one of these, or a checkpoint",
    )
    parser.add_argument(
        "--labels",
        type=_file,
        metavar="FILE",
        help="class names, a line each or as other tools have them (those beside the weights, else ImageNet-1k's)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the bundle (artifacts/VARIANT)")
    parser.add_argument(
        "--resolutions",
        type=arguments.resolution,
        nargs="+",
        metavar="N",
        help="what the service will offer (224 384 480, and that of the checkpoint)",
    )
    parser.add_argument(
        "--preprocess",
        type=_steps,
        action="append",
        default=[],
        metavar="RESOLUTION:RESIZE/CROP",
        help="instead of the default, such as 224:274/240, the protocol of the released code",
    )
    parser.add_argument(
        "--mean",
        type=float,
        nargs=3,
        metavar=("R", "G", "B"),
        help="what the network was trained to have subtracted from pixels of 0 to 1 (ImageNet's 0.485 0.456 0.406)",
    )
    parser.add_argument(
        "--std", type=float, nargs=3, metavar=("R", "G", "B"), help="and divided by (ImageNet's 0.229 0.224 0.225)"
    )
    parser.add_argument(
        "--normalize",
        choices=[*NORMALIZATIONS, ""],
        metavar="NAME",
        help=f"instead of both: {', '.join(NORMALIZATIONS)}",
    )
    parser.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        default=SOFTMAX,
        help="of the scores: sigmoid for one class, or for classes that do not exclude each other (%(default)s)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=DTYPES,
        default=[],
        help="graphs for GPUs beside the float32 one, in half precision",
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="photographs to measure them on (some ship with the project)"
    )
    parser.add_argument(
        "--quantize",
        choices=[INT8, ""],
        metavar=INT8,
        help="a graph for CPUs beside the float32 one, that OpenVINO runs in 8 bits; none if empty",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="photographs to calibrate it on; one's own are better"
    )
    parser.add_argument("--if-changed", action="store_true", help="leave a bundle that was made from the same")
    args = parser.parse_args(argv)
    if args.calibration is not None and args.quantize != INT8:
        parser.error("--calibration is for --quantize int8")
    for resolution, _ in args.preprocess:
        if args.resolutions and resolution not in args.resolutions:
            parser.error(f"--preprocess: {resolution} is not among --resolutions")
    try:
        args.normalization = _normalization(args.mean, args.std, args.normalize)
    except ValueError as err:
        parser.error(str(err))
    return args


def _normalization(mean: Sequence[float] | None, std: Sequence[float] | None, name: str | None) -> Normalization | None:
    """What was asked for, if anything; ValueError if it cannot be."""
    if name:
        if mean or std:
            raise ValueError("--normalize stands for --mean and --std: give either")
        return NORMALIZATIONS[name]
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError("--mean and --std belong together: give both")
    (r, g, b), (x, y, z) = mean, std
    return Normalization((r, g, b), (x, y, z))


def _file(text: str) -> Path | None:
    return Path(text) if text else None


def _steps(text: str) -> tuple[int, Preprocessing]:
    match = re.fullmatch(r"(\d+):(\d+)/(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not RESOLUTION:RESIZE/CROP, such as 224:274/240")
    resolution, resize, crop = arguments.resolution(match[1]), int(match[2]), int(match[3])
    if resize < crop or branch_sides(crop) != branch_sides(resolution):
        sides = "/".join(map(str, branch_sides(resolution)))
        raise argparse.ArgumentTypeError(
            f"{text!r}: the crop must fit into the resized image, and lead to the branch sides {sides} of {resolution}"
        )
    return resolution, Preprocessing(resize, crop)


if __name__ == "__main__":
    sys.exit(main())
