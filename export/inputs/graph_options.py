"""Options of the graph and its answers, checked together."""

from collections.abc import Sequence
from pathlib import Path

from export.inputs.arguments import ResolutionSteps
from export.inputs.export_request import ExportOptions
from model.command_line import Misuse
from model.spec import NORMALIZATIONS, RGB, Activation, Normalization


def graph_options(
    resolutions: Sequence[int] | None,
    preprocess: Sequence[ResolutionSteps] | None,
    mean: RGB | None,
    std: RGB | None,
    normalize: str,
    activation: Activation,
) -> ExportOptions:
    """The options of a command line. Raises Misuse if they contradict each other."""
    steps = dict(preprocess or [])
    if other := next((resolution for resolution in steps if resolutions and resolution not in resolutions), None):
        raise Misuse(f"--preprocess: {other} is not among --resolutions")
    return ExportOptions(
        resolutions=tuple(resolutions) if resolutions else None,
        preprocessing=steps,
        normalization=_normalization(mean, std, normalize),
        activation=activation,
    )


def check_calibration(calibration: Path | None, *, int8: bool) -> None:
    """Raises Misuse if photographs to calibrate on are given, and nothing is calibrated."""
    if calibration is not None and not int8:
        raise Misuse("--calibration is for --quantize int8")


def _normalization(mean: RGB | None, std: RGB | None, name: str) -> Normalization | None:
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
