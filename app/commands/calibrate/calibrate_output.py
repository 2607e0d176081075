"""Prints the result of `crossvit calibrate`: tables for people, JSON for programs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Column, Table

from app.commands.bench.bench_output import BenchFormat
from app.commands.terminal import allow_any_file_name, print_table
from bundle.calibration import CascadeFit, CascadeStep, ScoreCalibration
from bundle.file_names import CALIBRATION
from model.command_line import notes

_SHOWN_COVERAGES = (0.8, 0.9, 0.95, 0.99)
_Z_95 = 1.959963984540054


def print_calibrations(
    fitted: Sequence[ScoreCalibration], cascade: CascadeFit | None, bundle: Path, output: BenchFormat
) -> None:
    """Print `fitted` and the `cascade`, which are for the folder `bundle`, on standard output."""
    allow_any_file_name()
    if output is BenchFormat.JSON:
        content = {
            "bundle": str(bundle),
            "scores": [each.model_dump(mode="json") for each in fitted],
            "cascade": cascade and cascade.model_dump(mode="json"),
        }
        print(json.dumps(content, indent=2))
    else:
        print_table(_temperatures(fitted))
        if any(each.sets for each in fitted):
            print_table(_sets(fitted))
        if cascade is not None:
            print_table(_cascade(cascade))


def print_written(fitted: Sequence[ScoreCalibration], bundle: Path) -> None:
    """Say that the folder `bundle` has `fitted` now, and warn of those that do not make scores better."""
    notes.print(
        f"written to {bundle}; a running service reads it at SIGHUP or POST /admin/reload",
        markup=False,
        highlight=False,
    )
    for warning in map(_warning, fitted):
        if warning is not None:
            notes.print(f"WARNING: {warning}", style="bold red", markup=False, highlight=False)


def _temperatures(fitted: Sequence[ScoreCalibration]) -> Table:
    names = ("images", "top-1", "temperature", "ECE before", "ECE after", "NLL before", "NLL after")
    table = Table("scores", *(Column(name, justify="right", no_wrap=True) for name in names))
    for each in fitted:
        numbers = (each.ece_before, each.ece_after, each.nll_before, each.nll_after)
        table.add_row(
            _name(each),
            str(each.images),
            f"{100 * each.top1:.2f} %",
            f"{each.temperature:.4f}",
            *("" if number is None else f"{number:.4f}" for number in numbers),
        )
    return table


def _sets(fitted: Sequence[ScoreCalibration]) -> Table:
    names = ("coverage", "measured", "mean size")
    table = Table("prediction sets", *(Column(name, justify="right", no_wrap=True) for name in names))
    for each in fitted:
        for threshold in each.sets.thresholds if each.sets else ():
            if threshold.coverage in _SHOWN_COVERAGES:
                spread = _Z_95 * math.sqrt(threshold.coverage * (1 - threshold.coverage) / (each.images // 2))
                table.add_row(
                    _name(each),
                    f"{100 * threshold.coverage:g} % ± {100 * spread:.1f}",
                    f"{100 * threshold.measured_coverage:.2f} %",
                    f"{threshold.mean_size:.2f}",
                )
    return table


def _cascade(cascade: CascadeFit) -> Table:
    names = ("answers, of images left out of the fit", "top-1")
    table = Table(f"cascade: {cascade.goal}", *(Column(name, justify="right", no_wrap=True) for name in names))
    first = cascade.first
    table.add_row(
        f"{_step_name(first)}, where its score is at least {cascade.threshold:.4f}",
        f"{100 * cascade.answered_by_first:.1f} %",
        f"{100 * first.accuracy:.2f} % alone",
    )
    table.add_row(
        f"else {_step_name(cascade.second)}",
        f"{100 * (1 - cascade.answered_by_first):.1f} %",
        f"{100 * cascade.second.accuracy:.2f} % alone",
    )
    table.add_row("both", "", f"{100 * cascade.accuracy:.2f} %")
    return table


def _step_name(step: CascadeStep) -> str:
    return f"{step.model + ' ' if step.model else ''}{step.precision} at {step.resolution}"


def _warning(each: ScoreCalibration) -> str | None:
    if each.temperature == 1:
        return (
            f"{_name(each)}: the temperature that was found makes the NLL of images that were left out of the fit no "
            "better, so the temperature is 1 and scores stay as they are; more images may give one"
        )
    if each.ece_after <= each.ece_before:
        return None
    nll = "" if each.nll_before is None else f", while the NLL goes from {each.nll_before:.4f} to {each.nll_after:.4f}"
    return (
        f"{_name(each)}: the temperature makes the calibration error of images that were left out of the fit worse: "
        f"ECE {each.ece_before:.4f} before, {each.ece_after:.4f} after{nll}. Calibrate on more images, or remove "
        f"{CALIBRATION} from the bundle: scores are then as they were"
    )


def _name(each: ScoreCalibration) -> str:
    return f"{each.precision} at {each.resolution}"
