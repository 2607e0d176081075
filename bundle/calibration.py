"""What was fitted to a bundle's scores, in calibration.json beside the manifest; docs/calibration.md describes it.

The file is not in the manifest: it comes after the bundle, and may come again. It says which graph it was fitted for,
so that one of another graph is not used.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bundle.atomic_files import check_replaceable, exclusive_lock, replace_file
from bundle.bundle_errors import first_error
from bundle.file_names import CALIBRATION, GRAPHS, MODEL
from bundle.manifest import Manifest
from bundle.permissions import unreadable
from bundle.precisions import INT8
from bundle.prediction_sets import RankPenalty
from model.spec import Activation

LEAST_COVERAGE, MOST_COVERAGE = 0.5, 0.99
COVERAGES = tuple(hundredths / 100 for hundredths in range(50, 100))
MAX_TEMPERATURE = 100.0

_Share = Annotated[float, Field(ge=0, le=1)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ScoredGraph(_Record):
    """What the logits come from: a calibration is only for the same.

    Attributes:
        graph_sha256: of model.onnx, or of the 8-bit graph.
        resize: to which images are resized, in pixels.
        crop: the square that the network sees, in pixels.
        activation: makes scores of logits.
    """

    graph_sha256: str
    resize: int
    crop: int
    activation: Activation


class CoverageThreshold(_Record):
    """The threshold of a coverage, with what was measured on images that it was not fitted to (cross-fitting)."""

    coverage: Annotated[float, Field(ge=LEAST_COVERAGE, le=MOST_COVERAGE)]
    threshold: _Number
    measured_coverage: _Share
    mean_size: _Number


class SetThresholds(_Record):
    """What prediction sets need; `penalty` and `free` are those of bundle.prediction_sets.RankPenalty."""

    penalty: _Number
    free: Annotated[int, Field(ge=0)]
    thresholds: tuple[CoverageThreshold, ...]

    @property
    def rank_penalty(self) -> RankPenalty:
        return RankPenalty(self.penalty, self.free)

    def at(self, coverage: float) -> CoverageThreshold | None:
        """The least of the fitted coverages that is no less than `coverage`; None if there is none."""
        enough = (each for each in self.thresholds if each.coverage >= coverage - 1e-9)
        return min(enough, key=lambda each: each.coverage, default=None)


class ScoreCalibration(_Record):
    """What was fitted to the scores of a bundle in one precision and at one resolution.

    Attributes:
        precision: of the engine.
        resolution: of the bundle.
        fitted_for: the graph and what is around it.
        temperature: by which logits are divided.
        sets: what prediction sets need; None for sigmoid scores, and for too few images.
        images: how many it was fitted to.
        data: what was named as data.
        fitted_with: the version of this package, and the engine.
        top1: the share of images whose best class is the true one.
        ece_before: expected calibration error without the temperature.
        ece_after: with a temperature that was fitted to other images (cross-fitting).
        nll_before: mean negative log-likelihood of the true class; None for sigmoid scores.
        nll_after: likewise.
    """

    precision: str
    resolution: int
    fitted_for: ScoredGraph
    temperature: Annotated[float, Field(ge=1 / MAX_TEMPERATURE, le=MAX_TEMPERATURE)]
    sets: SetThresholds | None = None
    images: Annotated[int, Field(ge=1)]
    data: tuple[str, ...] = ()
    fitted_with: str = ""
    top1: _Share
    ece_before: _Share
    ece_after: _Share
    nll_before: _Number | None = None
    nll_after: _Number | None = None


class CascadeStep(_Record):
    """What answers: `model` is the name of another bundle, None for the one that has the calibration.

    `accuracy` is that of this step alone, on the images of the fit.
    """

    model: str | None = None
    resolution: int
    precision: str
    scored: ScoredGraph
    accuracy: _Share


class CascadeFit(_Record):
    """Two steps: the cheap one answers where its best class's score is at least `threshold`, else the dear one does.

    Attributes:
        first: the cheap step, of this bundle.
        second: the dear step.
        threshold: of the calibrated score.
        temperature: of the first step's scores when it was fitted.
        images: how many it was fitted to.
        data: what was named as data.
        goal: what it was fitted for.
        accuracy: of the cascade, cross-fitted.
        answered_by_first: the share of images that the first step answers, cross-fitted.
    """

    first: CascadeStep
    second: CascadeStep
    threshold: _Number
    temperature: _Number
    images: Annotated[int, Field(ge=1)]
    data: tuple[str, ...] = ()
    goal: str = ""
    accuracy: _Share
    answered_by_first: _Share

    @property
    def precisions(self) -> tuple[str, str]:
        return self.first.precision, self.second.precision


class CalibrationFile(_Record):
    """The content of calibration.json."""

    format: Literal[1] = 1
    scores: tuple[ScoreCalibration, ...] = ()
    cascades: tuple[CascadeFit, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """The calibrations that fit a bundle.

    Attributes:
        scores: by precision and resolution.
        cascades: whose first step, and second one if that is of the same bundle, fit it.
        remarks: what was passed over, and why.
    """

    scores: Mapping[tuple[str, int], ScoreCalibration] = field(default_factory=dict)
    cascades: tuple[CascadeFit, ...] = ()
    remarks: tuple[str, ...] = ()

    def at(self, precision: str, resolution: int) -> ScoreCalibration | None:
        return self.scores.get((precision, resolution))


def scored_graph(manifest: Manifest, precision: str, resolution: int) -> ScoredGraph | None:
    """What the logits in `precision` at `resolution` come from; None if the bundle lacks the resolution.

    Half precision is made from model.onnx by a rule.
    """
    steps = manifest.preprocessing.get(resolution)
    if steps is None:
        return None
    eight_bits = precision.startswith(INT8) and GRAPHS[INT8] in manifest.files
    return ScoredGraph(
        graph_sha256=manifest.files[GRAPHS[INT8] if eight_bits else MODEL],
        resize=steps.resize,
        crop=steps.crop,
        activation=manifest.activation,
    )


def read_calibration(bundle: Path, manifest: Manifest) -> Calibration:
    """The calibrations in the folder `bundle` that are of its graphs. It raises nothing: a bundle serves without."""
    path = bundle / CALIBRATION
    try:
        content = CalibrationFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Calibration()
    except OSError as err:
        return Calibration(remarks=(f"scores are not calibrated: {unreadable(path, err)}",))
    except ValidationError as err:
        return Calibration(
            remarks=(f"scores are not calibrated: {path}: {first_error(err)}; crossvit calibrate makes it anew",)
        )
    scores = {(each.precision, each.resolution): each for each in content.scores if _fits(each, manifest)}
    cascades = tuple(each for each in content.cascades if _cascade_fits(each, manifest, scores))
    stale = [
        *(f"{each.precision} at {each.resolution}" for each in content.scores if each not in scores.values()),
        *("the cascade" for each in content.cascades if each not in cascades),
    ]
    why = "it was fitted for another graph, or before the scores were; calibrate again"
    remarks = (f"{path} is passed over for {', '.join(dict.fromkeys(stale))}: {why}",) if stale else ()
    return Calibration(scores, cascades, remarks)


def check_calibration_writable(bundle: Path) -> None:
    """Raise the OSError that `add_calibrations` raises for `bundle` as it is."""
    check_replaceable(bundle / CALIBRATION)


def add_calibrations(
    bundle: Path, manifest: Manifest, fitted: Iterable[ScoreCalibration], cascade: CascadeFit | None = None
) -> None:
    """Put `fitted` into calibration.json in place of those of the same precisions and resolutions, and the `cascade`.

    The file is replaced in one step; those of other graphs go, and cascades of scores that are others now. Raises
    OSError.
    """
    with exclusive_lock(bundle, wait=True):  # another run may calibrate another precision meanwhile
        kept = read_calibration(bundle, manifest)
        scores = dict(kept.scores) | {(each.precision, each.resolution): each for each in fitted}
        cascades = {each.precisions: each for each in kept.cascades if _cascade_fits(each, manifest, scores)}
        if cascade is not None:
            cascades[cascade.precisions] = cascade
        _write(bundle, Calibration(scores, tuple(cascades.values())))


def keep_calibration(old: Path, new: Path, manifest: Manifest) -> None:
    """Write what of the calibration in the bundle `old` fits the bundle `new` of `manifest` into that, if any does."""
    kept = read_calibration(old, manifest)
    if kept.scores:
        _write(new, kept)


def _write(bundle: Path, content: Calibration) -> None:
    scores = tuple(content.scores[key] for key in sorted(content.scores))
    text = CalibrationFile(scores=scores, cascades=content.cascades).model_dump_json(indent=1) + "\n"
    replace_file(bundle / CALIBRATION, text.encode(), mode=0o644)  # the service may run as another user


def _fits(fitted: ScoreCalibration, manifest: Manifest) -> bool:
    return fitted.fitted_for == scored_graph(manifest, fitted.precision, fitted.resolution)


def _cascade_fits(cascade: CascadeFit, manifest: Manifest, scores: Mapping[tuple[str, int], ScoreCalibration]) -> bool:
    """Whether the cascade is of these scores; the second step may be another bundle's, which is not known here."""
    own = [step for step in (cascade.first, cascade.second) if step.model is None]
    first = scores.get((cascade.first.precision, cascade.first.resolution))
    return (
        first is not None
        and first.temperature == cascade.temperature
        and all(step.scored == scored_graph(manifest, step.precision, step.resolution) for step in own)
    )
