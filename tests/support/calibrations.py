"""Calibrations of a bundle, as `crossvit calibrate` would write them."""

from pathlib import Path

from bundle.calibration import (
    CoverageThreshold,
    ScoreCalibration,
    SetThresholds,
    add_calibrations,
    scored_graph,
)
from bundle.file_names import MANIFEST
from bundle.manifest import parse_manifest


def made_calibration(
    bundle: Path,
    temperature: float = 0.5,
    *,
    precision: str = "f32",
    resolution: int = 224,
    thresholds: dict[float, float] | None = None,
) -> ScoreCalibration:
    """A calibration that fits `bundle`, with sets of these thresholds by coverage."""
    manifest = parse_manifest((bundle / MANIFEST).read_bytes(), bundle / MANIFEST)
    levels = {0.8: 0.5, 0.9: 0.75} if thresholds is None else thresholds
    return ScoreCalibration(
        precision=precision,
        resolution=resolution,
        fitted_for=scored_graph(manifest, precision, resolution),
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


def calibrate_bundle(bundle: Path, *fitted: ScoreCalibration) -> None:
    """Put `fitted` into the bundle."""
    manifest = parse_manifest((bundle / MANIFEST).read_bytes(), bundle / MANIFEST)
    add_calibrations(bundle, manifest, fitted)
