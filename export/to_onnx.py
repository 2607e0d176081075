"""Weights to a bundle: `python export/to_onnx.py --variant crossvit_18_dagger`.

The bundle is proven against PyTorch before it is put in place; see docs/bundle.md for what is in it.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from export.agreement import Disagreement
from export.bundle import (
    FORMAT,
    GOLDEN,
    LABELS,
    MANIFEST,
    MODEL,
    NotABundle,
    read_manifest,
    replacing,
    sha256,
    write_json,
)
from export.cpu import INT8, agreements
from export.graph import INPUT, OUTPUTS, Served, to_onnx
from export.half import DTYPES
from export.int8 import add_int8, calibration_id
from export.photos import NoPhotos
from export.precision import add_precision, file_name, float32_answers
from export.proof import BATCH, ENGINE, record, references, worst_differences
from export.quantize import NotInstalled, require
from model.checkpoint import BadCheckpoint
from model.crossvit import CrossViT
from model.labels import BadLabels, labels_for
from model.spec import PATCH_SIZES, PREPROCESSING, RESOLUTIONS, VARIANTS, Preprocessing, Variant, branch_sides
from model.weights import SHIPPED_SOURCE, UNTRAINED, Weights, WeightsUnavailable, find

TOLERANCE = 1e-5
_ERRORS = (
    *(WeightsUnavailable, BadCheckpoint, BadLabels, NotABundle, Disagreement, NoPhotos, NotInstalled),
    *(OverflowError, OSError),
)


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        export(
            VARIANTS[args.variant],
            choice=args.weights,
            labels=args.labels,
            out=args.out or Path("artifacts") / args.variant,
            preprocessing=_preprocessing(args.resolutions, args.preprocess),
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
    preprocessing: dict[int, Preprocessing],
    precisions: Sequence[str] = (),
    photos: Path | None = None,
    int8: bool = False,
    calibration: Path | None = None,
    if_changed: bool = False,
) -> None:
    """Write and prove the bundle of `variant` at `out`; any error leaves what stood there as it was.

    `choice` is as in model.weights.find. `precisions` come beside float32, measured on the `photos` in a folder or on
    the shipped ones. So does `int8`, which is calibrated on photographs in the folder `calibration`, and measured on
    other views of them if there are no `photos`. With `if_changed` a bundle that was made from the same stays.
    """
    started = time.monotonic()
    calibrated_on = calibration_id(calibration) if int8 else None
    weights = find(choice, variant, _say)
    header = _header(variant, preprocessing)
    wanted = _has(out, precisions, calibrated_on, chosen=calibration is not None)
    if if_changed and _stays(out, header, weights, choice, labels, wanted=wanted):
        return
    if int8:
        require()
    _say(f"{variant.name}: weights {weights.id}, {weights.source}")
    if weights.caution:
        _say(f"WARNING: {weights.caution}")
    if weights.id == UNTRAINED:
        _say("WARNING: UNTRAINED weights: the answers of this bundle will mean nothing")
    network = weights.network(variant, say=_say)
    names = labels_for(labels or weights.labels, network.classes)
    native = _native_resolution(network)
    if native != variant.resolution:
        _say(f"note: these weights have the position embeddings of {native}; for other sides they are interpolated")
    with replacing(out) as folder:
        _say("writing the graph …")
        served = Served(network)
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
            "weights": {
                "id": weights.id,
                "source": weights.source,
                "resolution": native,
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


def _header(variant: Variant, preprocessing: dict[int, Preprocessing]) -> dict[str, Any]:
    """What is known of a bundle before its weights are read."""
    return {
        "format": FORMAT,
        "variant": variant.name,
        "preprocessing": {str(resolution): dataclasses.asdict(steps) for resolution, steps in preprocessing.items()},
        "input": INPUT,
        "outputs": list(OUTPUTS),
    }


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
    out: Path, header: dict[str, Any], weights: Weights, choice: str, labels: Path | None, *, wanted: bool
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
    same = _is_same(out, standing, header, labels or (weights.labels if same_weights else None))
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


def _is_same(out: Path, standing: dict[str, Any], header: dict[str, Any], labels: Path | None) -> bool:
    try:
        return (
            all(standing[key] == value for key, value in header.items())
            and json.loads((out / LABELS).read_text()) == labels_for(labels, standing["classes"])
            and all(sha256(out / name) == digest for name, digest in standing["files"].items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False  # damaged, or of another format


def _worth(weights: Mapping[str, Any]) -> int:
    """How good weights are: random ones, those that ship with the project, all others."""
    return 0 if weights.get("id") == UNTRAINED else 1 if weights.get("source") == SHIPPED_SOURCE else 2


def _native_resolution(network: CrossViT) -> int:
    return PATCH_SIZES[1] * math.isqrt(network.pos_embed[1].shape[1] - 1)


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", required=True, choices=VARIANTS, metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument(
        "--weights",
        default="auto",
        help="auto (local cache, else Hugging Face hub, else shipped, else untrained), one of these, or a checkpoint",
    )
    parser.add_argument(
        "--labels",
        type=_file,
        metavar="FILE",
        help="class names, a line each or JSON (those beside the weights, else ImageNet-1k's)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the bundle (artifacts/VARIANT)")
    parser.add_argument(
        "--resolutions",
        type=int,
        nargs="+",
        choices=RESOLUTIONS,
        default=RESOLUTIONS,
        help="what the service will offer (all)",
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
        if resolution not in args.resolutions:
            parser.error(f"--preprocess: {resolution} is not among --resolutions")
    return args


def _file(text: str) -> Path | None:
    return Path(text) if text else None


def _steps(text: str) -> tuple[int, Preprocessing]:
    match = re.fullmatch(r"(\d+):(\d+)/(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not RESOLUTION:RESIZE/CROP, such as 224:274/240")
    resolution, resize, crop = map(int, match.groups())
    if resize < crop or branch_sides(crop) != branch_sides(resolution):
        sides = "/".join(map(str, branch_sides(resolution)))
        raise argparse.ArgumentTypeError(
            f"{text!r}: the crop must fit into the resized image, and lead to the branch sides {sides} of {resolution}"
        )
    return resolution, Preprocessing(resize, crop)


def _preprocessing(
    resolutions: Iterable[int], changes: Iterable[tuple[int, Preprocessing]]
) -> dict[int, Preprocessing]:
    return {resolution: PREPROCESSING[resolution] for resolution in sorted(set(resolutions))} | dict(changes)


if __name__ == "__main__":
    sys.exit(main())
