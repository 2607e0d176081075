"""Runs labelled images through a bundle's engine, and fits calibrations and cascades to the logits."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.progress import Progress

from app.commands.calibrate.cascade_fit import CascadeGoal, fit_cascade
from app.commands.calibrate.labelled_logits import LabelledLogits, labelled_logits
from app.commands.calibrate.score_fit import fit_scores
from app.configuration.settings import Settings
from app.serving.offline_model import offline
from app.serving.served_model import ServedModel
from bundle.calibration import CascadeFit, CascadeStep, ScoreCalibration, scored_graph
from bundle.class_labels import ClassLabel
from bundle.reader import Bundle, open_bundle
from bundle.scores import scores
from model.command_line import notes
from model.dataset import Dataset


@dataclass(frozen=True)
class LabelledImages:
    """The images at `indices` of `data`; `truths` has the model's class for each class of the data."""

    data: Dataset
    indices: Sequence[int]
    truths: Mapping[str, ClassLabel]


@dataclass(frozen=True)
class FittedStep:
    """A calibration of `bundle`, which is closed, and the logits that it was fitted to."""

    bundle: Bundle
    calibration: ScoreCalibration
    answers: LabelledLogits


async def fitted_steps(
    path: Path, settings: Settings, images: LabelledImages, resolutions: Sequence[int]
) -> list[FittedStep]:
    """The bundle at `path` with the engine of `settings`, at each of `resolutions`.

    Raises as ServedModel.load and fit_scores do.
    """
    async with offline(open_bundle(path), settings) as model:
        return [await _fitted(model, resolution, images) for resolution in dict.fromkeys(resolutions)]


async def _fitted(model: ServedModel, resolution: int, images: LabelledImages) -> FittedStep:
    await model.load(resolution)
    engine, precision = model.engine(resolution)
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        bar = progress.add_task(f"{precision} at {resolution}", total=len(images.indices))
        found = await labelled_logits(
            model, resolution, images.data, images.indices, images.truths, lambda: progress.advance(bar)
        )
    if found.failed:
        notes.print(f"{found.failed} of {len(images.indices)} images have no answer and are left out", style="yellow")
    manifest = model.bundle.manifest
    order = np.random.default_rng(0).permutation(len(found.truths))  # the data's are by class
    fit = await asyncio.to_thread(fit_scores, found.logits[order], found.truths[order], manifest.activation)
    scored = scored_graph(manifest, precision, resolution)
    assert scored is not None, "the model serves it"
    calibration = ScoreCalibration(
        precision=precision,
        resolution=resolution,
        fitted_for=scored,
        temperature=fit.temperature,
        sets=fit.sets,
        images=fit.images,
        data=tuple(dict.fromkeys(images.data.items[index].source.name for index in found.indices)),
        fitted_with=f"crossvit {version('crossvit')}, {engine}",
        top1=fit.top1,
        ece_before=fit.ece_before,
        ece_after=fit.ece_after,
        nll_before=fit.nll_before,
        nll_after=fit.nll_after,
    )
    return FittedStep(model.bundle, calibration, found)


def cascade_of(owner: Bundle, first: FittedStep, second: FittedStep, goal: CascadeGoal) -> CascadeFit:
    """The cascade of both steps, of which `owner` is the first one's bundle. BadParameter if it would be of no use."""
    both = sorted(set(first.answers.indices) & set(second.answers.indices))
    one, other = (_rows(step, both) for step in (first, second))
    best = scores(first.answers.logits[one], owner.manifest.activation, first.calibration.temperature).max(axis=1)
    correct = [
        step.answers.logits[rows].argmax(axis=1) == step.answers.truths[rows]
        for step, rows in ((first, one), (second, other))
    ]
    fit = fit_cascade(best, correct[0], correct[1], goal)
    return CascadeFit(
        first=_step(first, owner, float(correct[0].mean())),
        second=_step(second, owner, float(correct[1].mean())),
        threshold=fit.threshold,
        temperature=first.calibration.temperature,
        images=len(both),
        data=first.calibration.data,
        goal=str(goal),
        accuracy=fit.accuracy,
        answered_by_first=fit.answered_by_first,
    )


def _rows(step: FittedStep, indices: Sequence[int]) -> list[int]:
    rows = {index: row for row, index in enumerate(step.answers.indices)}
    return [rows[index] for index in indices]


def _step(step: FittedStep, owner: Bundle, accuracy: float) -> CascadeStep:
    return CascadeStep(
        model=None if step.bundle.path == owner.path else step.bundle.name,
        resolution=step.calibration.resolution,
        precision=step.calibration.precision,
        scored=step.calibration.fitted_for,
        accuracy=accuracy,
    )
