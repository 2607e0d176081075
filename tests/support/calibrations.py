"""Calibrations of a bundle, as `crossvit calibrate` would write them."""

from pathlib import Path

from bundle.calibration import (
    CascadeFit,
    CascadeStep,
    CoverageThreshold,
    ScoreCalibration,
    SetThresholds,
    add_calibrations,
    scored_graph,
)
from bundle.file_names import MANIFEST
from bundle.manifest import Manifest, parse_manifest


def made_calibration(
    bundle: Path,
    temperature: float = 0.5,
    *,
    precision: str = "f32",
    resolution: int = 224,
    thresholds: dict[float, float] | None = None,
) -> ScoreCalibration:
    """A calibration that fits `bundle`, with sets of these thresholds by coverage."""
    scored = scored_graph(read_manifest(bundle), precision, resolution)
    assert scored is not None
    levels = {0.8: 0.5, 0.9: 0.75} if thresholds is None else thresholds
    return ScoreCalibration(
        precision=precision,
        resolution=resolution,
        fitted_for=scored,
        temperature=temperature,
        sets=SetThresholds(
            penalty=0.01,
            free=2,
            thresholds=tuple(
                CoverageThreshold(coverage=coverage, threshold=threshold, measured_coverage=coverage, mean_size=3)
                for coverage, threshold in levels.items()
            ),
        ),
        images=500,
        data=("val.zip",),
        top1=0.5,
        ece_before=0.1,
        ece_after=0.02,
    )


def made_cascade(
    bundle: Path, threshold: float, *, second: Path | None = None, resolution: int = 384, temperature: float = 0.5
) -> CascadeFit:
    """A cascade of `bundle` at 224 and then, or of `second` then, at `resolution`."""
    return CascadeFit(
        first=_step(bundle, bundle, 224),
        second=_step(second or bundle, bundle, resolution),
        threshold=threshold,
        temperature=temperature,
        images=500,
        data=("val.zip",),
        goal="a test",
        accuracy=0.6,
        answered_by_first=0.7,
    )


def _step(bundle: Path, owner: Path, resolution: int) -> CascadeStep:
    scored = scored_graph(read_manifest(bundle), "f32", resolution)
    assert scored is not None
    name = None if bundle == owner else bundle.name
    return CascadeStep(model=name, resolution=resolution, precision="f32", scored=scored, accuracy=0.5)


def calibrate_bundle(bundle: Path, *fitted: ScoreCalibration, cascade: CascadeFit | None = None) -> None:
    """Put `fitted` and the cascade into the bundle."""
    add_calibrations(bundle, read_manifest(bundle), fitted, cascade)


def read_manifest(bundle: Path) -> Manifest:
    return parse_manifest((bundle / MANIFEST).read_bytes(), bundle / MANIFEST)
