"""Types of options that several commands have."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from bundle.manifest import MAX_RESIZE
from bundle.precisions import BF16, FP16, INT8
from model.spec import (
    LARGEST_SIDE,
    LEAST_SIDE,
    NORMALIZATIONS,
    PATCH_SIZES,
    RESOLUTIONS,
    RGB,
    SIDE_STEP,
    VARIANTS,
    Activation,
    Preprocessing,
    branch_sides,
    is_resolution,
    variant_named,
)


class ResolutionSteps(NamedTuple):
    """The preprocessing at a resolution, as --preprocess has it."""

    resolution: int
    preprocessing: Preprocessing


def variant(text: str) -> str:
    """The name of the variant that `text` names."""
    try:
        return variant_named(text).name
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


def resolution(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and is_resolution(int(text))):
        usual = ", ".join(map(str, RESOLUTIONS))
        raise typer.BadParameter(
            f"invalid choice: {text} is not a resolution, which is {usual} or another multiple of {SIDE_STEP} from "
            f"{LEAST_SIDE} to {LARGEST_SIDE}"
        )
    return int(text)


def offered_resolution(text: str) -> int:
    """A resolution that a bundle may offer: the side of L, and so a multiple of its patch."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) and int(text) % PATCH_SIZES[1] == 0):
        raise typer.BadParameter(f"invalid choice: {text} is not a resolution that a bundle may offer")
    return int(text)


def choice(names: Collection[str]) -> Callable[[str], str]:
    """The parser of an option whose value is one of `names`."""

    def chosen(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"invalid choice: {text!r} is not one of {', '.join(filter(None, names))}")
        return text

    return chosen


def resolution_steps(text: str) -> ResolutionSteps:
    match = re.fullmatch(r"(\d+):(\d+)/(\d+)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not RESOLUTION:RESIZE/CROP, such as 224:274/240")
    offered, resize, crop = resolution(match[1]), int(match[2]), int(match[3])
    if resize > MAX_RESIZE:
        raise typer.BadParameter(f"{text!r}: the resized image may have at most {MAX_RESIZE} pixels a side")
    if resize < crop or branch_sides(crop) != branch_sides(offered):
        sides = "/".join(map(str, branch_sides(offered)))
        raise typer.BadParameter(
            f"{text!r}: the crop must fit into the resized image, and lead to the branch sides {sides} of {offered}"
        )
    return ResolutionSteps(offered, Preprocessing(resize, crop))


LEAST_AGREEMENT = typer.Option(
    min=0,
    max=1,
    metavar="SHARE",
    help="share of photographs with float32's best class that is enough, such as 0.99 (instead of the usual rule)",
)

VariantOption = Annotated[
    str,
    typer.Option(
        parser=variant,
        metavar="NAME",
        help=f"{', '.join(VARIANTS)}, or the name of one of them in timm or of IBM's file",
    ),
]

LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="class names, one a line or as other tools write them (those beside the weights, else ImageNet-1k's)",
    ),
]
ResolutionsOption = Annotated[
    list[int] | None,
    typer.Option(
        "--resolutions",
        parser=resolution,
        metavar="N ...",
        help="resolutions that the service offers (224 384 480, and that of the checkpoint)",
    ),
]
PreprocessOption = Annotated[
    list[ResolutionSteps] | None,
    typer.Option(
        "--preprocess",
        parser=resolution_steps,
        metavar="RESOLUTION:RESIZE/CROP",
        help="replaces the default at a resolution, such as 224:274/240, the protocol of the released code",
    ),
]
MeanOption = Annotated[
    RGB | None,
    typer.Option(
        "--mean",
        metavar="R G B",
        help="mean that the network was trained with, of pixels from 0 to 1 (ImageNet's 0.485 0.456 0.406)",
    ),
]
StdOption = Annotated[
    RGB | None,
    typer.Option("--std", metavar="R G B", help="standard deviation, likewise (ImageNet's 0.229 0.224 0.225)"),
]
NormalizeOption = Annotated[
    str,
    typer.Option(
        "--normalize",
        parser=choice(("", *NORMALIZATIONS)),
        metavar="NAME",
        show_default=False,
        help=f"mean and std by name: {', '.join(NORMALIZATIONS)}",
    ),
]
ActivationOption = Annotated[
    Activation,
    typer.Option(
        "--activation",
        help="of the scores: sigmoid for one class, or for classes that do not exclude each other",
    ),
]
PrecisionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        parser=choice((FP16, BF16)),
        metavar=f"{FP16}|{BF16} ...",
        help="adds graphs in half precision, for GPUs",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="FOLDER",
        readable=False,
        help="photographs to measure precisions on (those shipped, or every second one of --calibration)",
    ),
]
QuantizeOption = Annotated[
    str,
    typer.Option(
        "--quantize",
        parser=choice(("", INT8)),
        metavar=INT8,
        show_default=False,
        help="adds a graph in 8 bits, which OpenVINO runs on CPUs; none if empty",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FOLDER",
        readable=False,
        help="photographs to calibrate int8 on; your own are better than those shipped",
    ),
]
IfChangedOption = Annotated[
    bool,
    typer.Option("--if-changed", help="keep a bundle that was made from the same weights with the same options"),
]
