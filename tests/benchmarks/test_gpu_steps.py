"""benchmarks/gpu_steps.sh without a GPU: as a rehearsal, and as it ends where something is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reference_network import TINY

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_steps.sh"


def steps(*arguments: str, out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHON": sys.executable, "DEVICE": "cpu", "VARIANT": TINY.name, "OUT": str(out), **settings}
    return subprocess.run(
        [str(SCRIPT), *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [[], ["everything"]])
def test_without_a_known_step_the_steps_are_listed(tmp_path: Path, arguments: list[str]) -> None:
    done = steps(*arguments, out=tmp_path)
    assert done.returncode == 2
    assert "gpu_steps.sh engines" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_step_is_rehearsed_and_kept(bundle: Path, tmp_path: Path) -> None:
    done = steps("build", out=tmp_path / "out", BUNDLE=str(bundle))
    assert done.returncode == 0
    assert "dry run: nothing was built or written" in done.stdout
    assert (tmp_path / "out" / "build.log").read_text() == done.stdout


def test_a_command_that_fails_is_shown_and_ends_the_step_with_1(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("no manifest")
    done = steps("build", out=tmp_path / "out", BUNDLE=str(tmp_path))
    assert done.returncode == 1
    assert "exit code 1 after" in done.stdout


def test_what_is_missing_is_said_before_anything_runs(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    (tmp_path / "python").chmod(0o755)
    done = steps("engines", out=tmp_path / "out", BUNDLE=str(bundle), PYTHON=str(tmp_path / "python"))
    assert done.returncode == 1
    assert "not installed: timm\n" in done.stdout
    assert "pip install" in done.stdout


@pytest.mark.exhaustive
def test_the_service_is_measured(bundle: Path, tmp_path: Path) -> None:
    done = steps("service", out=tmp_path / "out", BUNDLE=str(bundle), BENCH_SECONDS="0.5", PORT="8917")
    assert done.returncode == 0, done.stdout
    assert "256 clients" in done.stdout
