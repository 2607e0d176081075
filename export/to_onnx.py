"""Weights to a bundle, with PyTorch: `python export/to_onnx.py --variant crossvit_18_dagger`.

The bundle is compared with PyTorch before it is put in place; docs/bundle.md describes its content. Where the weights
are those of a network that ships, `crossvit pull` makes the same without PyTorch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bundle.precisions import INT8
from export.inputs import arguments
from export.inputs.export_request import ExportRequest
from export.inputs.graph_options import check_calibration, graph_options
from model.command_line import Misuse, failures, new_app, run_command, spread
from model.spec import SOFTMAX, VARIANTS

_app = new_app()


@_app.command(help=__doc__)
def _from_options(
    variant: arguments.VariantOption,
    weights: Annotated[
        str,
        typer.Option(
            metavar="WEIGHTS",
            help="auto (local cache, else hub, else shipped, else untrained), pretrained (never untrained), one of "
            "these, a checkpoint, or hf:owner/name[@revision]",
        ),
    ] = "auto",
    labels: arguments.LabelsOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", readable=False, help="the bundle's folder (artifacts/VARIANT)")
    ] = None,
    resolutions: arguments.ResolutionsOption = None,
    preprocess: arguments.PreprocessOption = None,
    mean: arguments.MeanOption = None,
    std: arguments.StdOption = None,
    normalize: arguments.NormalizeOption = "",
    activation: arguments.ActivationOption = SOFTMAX,
    precision: arguments.PrecisionOption = None,
    images: arguments.ImagesOption = None,
    quantize: arguments.QuantizeOption = "",
    calibration: arguments.CalibrationOption = None,
    if_changed: arguments.IfChangedOption = False,
) -> None:
    check_calibration(calibration, int8=quantize == INT8)
    if images is not None and not (precision or quantize):
        raise Misuse(
            "--images is for --precision and --quantize: float32 is compared with PyTorch on shipped photographs"
        )
    request = ExportRequest(
        variant=VARIANTS[variant],
        weights=weights,
        labels=Path(labels) if labels else None,
        out=out or Path("artifacts") / variant,
        options=graph_options(resolutions, preprocess, mean, std, normalize, activation),
        precisions=tuple(precision or ()),
        photos=images,
        int8=quantize == INT8,
        calibration=calibration,
        if_changed=if_changed,
    )
    from export.making.bundle_maker import MAKING_ERRORS, make_bundle  # PyTorch takes seconds, a typo needs none
    from export.making.pytorch_source import PyTorchSource

    with failures(MAKING_ERRORS, interrupted=lambda: "nothing was changed"):
        make_bundle(request, PyTorchSource(), _say)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    return run_command(_app, spread(given, "--resolutions", "--precision"))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
