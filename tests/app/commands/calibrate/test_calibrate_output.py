"""What `crossvit calibrate` says at its end."""

from pathlib import Path

import pytest

from app.commands.calibrate.calibrate_output import print_written
from bundle.calibration import ScoreCalibration, ScoredGraph

BETTER = ScoreCalibration(
    precision="f32",
    resolution=224,
    fitted_for=ScoredGraph(graph_sha256="0" * 64, resize=256, crop=224, activation="softmax"),
    temperature=1.2,
    images=300,
    top1=0.5,
    ece_before=0.05,
    ece_after=0.02,
    nll_before=2.1,
    nll_after=2.0,
)


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({}, None),
        ({"ece_after": 0.06}, "ECE 0.0500 before, 0.0600 after, while the NLL goes from 2.1000 to 2.0000"),
        ({"ece_after": 0.06, "nll_before": None, "nll_after": None}, "ECE 0.0500 before, 0.0600 after. Calibrate on"),
        ({"temperature": 1.0, "ece_after": 0.05, "nll_after": 2.1}, "the temperature is 1 and scores stay"),
    ],
)
def test_a_calibration_that_does_not_help_ends_with_a_warning(
    capsys: pytest.CaptureFixture[str], changed: dict[str, float | None], warning: str | None
) -> None:
    print_written([BETTER.model_copy(update=changed)], Path("mine"))
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("written to mine; a running service reads it")
    assert ("WARNING: f32 at 224" in said) == (warning is not None)
    assert warning is None or warning in said
