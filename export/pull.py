"""Weights to a bundle, without PyTorch: `crossvit pull crossvit_18_dagger`.

SOURCE is a variant, whose official weights are fetched, a checkpoint (a file or a folder), or hf:owner/repo[@revision].
The graph is a template that ships with the project. `python export/to_onnx.py` makes it from PyTorch instead, has more
options, and compares each bundle with PyTorch.
"""

import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bundle.cached_source import cached_source
from bundle.precisions import INT8
from bundle.pulled_bundles import pulled_folder
from export.inputs import arguments
from export.inputs.export_request import Bfloat16At, ExportRequest
from export.inputs.graph_options import check_calibration, graph_options
from export.inputs.pull_source import pull_source
from export.inputs.remembered_pull import RememberedPull, options_without
from export.making.bundle_maker import MAKING_ERRORS, make_bundle
from export.making.template_source import TemplateSource
from model.command_line import failures, new_app, run_command, spread
from model.spec import SOFTMAX

COLUMNS = 79

_app = new_app()


@_app.command(help=__doc__)
def _from_options(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="a variant, a checkpoint, or hf:owner/repo[@revision]")
    ],
    variant: Annotated[
        str | None,
        typer.Option(parser=arguments.variant, metavar="NAME", help="of a checkpoint (read off it if left out)"),
    ] = None,
    labels: arguments.LabelsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            readable=False,
            help="the bundle's folder (one in the cache, where crossvit serve SOURCE finds it)",
        ),
    ] = None,
    resolutions: arguments.ResolutionsOption = None,
    preprocess: arguments.PreprocessOption = None,
    mean: arguments.MeanOption = None,
    std: arguments.StdOption = None,
    normalize: arguments.NormalizeOption = "",
    activation: arguments.ActivationOption = SOFTMAX,
    bfloat16: Annotated[
        Bfloat16At,
        typer.Option(
            help="resolutions at which to measure how bfloat16 agrees with float32, where this CPU has it; "
            "the service serves in it only where that was measured"
        ),
    ] = "default",
    precision: arguments.PrecisionOption = None,
    images: arguments.ImagesOption = None,
    quantize: arguments.QuantizeOption = "",
    calibration: arguments.CalibrationOption = None,
    if_changed: arguments.IfChangedOption = False,
    only_weights: Annotated[str | None, typer.Option(hidden=True, help="refuse weights of another id")] = None,
) -> None:
    check_calibration(calibration, int8=quantize == INT8)
    options = graph_options(resolutions, preprocess, mean, std, normalize, activation)
    say = StampedLines().say
    with failures(MAKING_ERRORS, interrupted=lambda: "nothing was changed"):
        cached = cached_source(source)
        remembered = RememberedPull(cached, options_without(source, context.obj, _value_counts(context)))
        found = pull_source(cached.text, variant, say)
        request = ExportRequest(
            variant=found.variant,
            weights=found.weights,
            labels=Path(labels) if labels else None,
            out=out or pulled_folder(cached),
            options=options,
            precisions=tuple(precision or ()),
            photos=images,
            int8=quantize == INT8,
            calibration=calibration,
            if_changed=if_changed,
            bfloat16=bfloat16,
            only_weights=only_weights,
        )
        make_bundle(request, TemplateSource(), say)
        if out is None:
            remembered.write(say)


def _value_counts(context: typer.Context) -> dict[str, int]:
    """The number of values of each option."""
    return {
        name: 0 if getattr(parameter, "is_flag", False) else parameter.nargs
        for parameter in context.command.params
        for name in parameter.opts
        if name.startswith("--")
    }


class StampedLines:
    """Prints lines behind the seconds since the start, no wider than a terminal."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        stamp = f"{time.monotonic() - self._started:5.1f} s  "
        lines = textwrap.wrap(
            line.strip(),
            COLUMNS,
            initial_indent=stamp,
            subsequent_indent=" " * len(stamp),
            break_long_words=False,
            break_on_hyphens=False,
        )
        print("\n".join(lines), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    written = spread(given, "--resolutions", "--precision")
    return run_command(_app, written, program="crossvit pull", obj=written)


if __name__ == "__main__":
    sys.exit(main())
