"""What make would run, without running it: serving installs what it needs, tests add to that, nothing twice."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh clone, as far as make looks at it."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def planned(folder: Path, *arguments: str) -> list[str]:
    """The commands that `make ARGUMENTS` would run."""
    command = ["make", "--dry-run", *arguments]
    # Without what a make around this test tells its children: they would print the folders that they enter.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def installed(commands: list[str]) -> list[str]:
    """What pip would install of the project, by extras."""
    return [command.rpartition("-e ")[2].strip("'") for command in commands if " -e " in command]


def pretend_installed(folder: Path, *stamps: str) -> None:
    (folder / ".venv").mkdir(exist_ok=True)
    for stamp in stamps:
        (folder / ".venv" / stamp).touch()


def test_serving_installs_what_serving_needs_and_runs_one_command(folder: Path) -> None:
    commands = planned(folder, "serve")
    assert installed(commands) == [".[cpu]"]
    assert commands[-1].split() == [".venv/bin/crossvit", "serve", '"crossvit_9_dagger"', "--port", "8000"]


def test_variables_reach_the_command(folder: Path) -> None:
    given = ["WEIGHTS=mine.pth", "LABELS=a b.txt", "EXPORT=--activation sigmoid", "QUANTIZE=int8", "PORT=9000"]
    commands = planned(folder, "serve", *given)
    assert installed(commands) == [".[cpu]", ".[quantize]"]
    options = '--labels "a b.txt" --activation sigmoid --quantize "int8" --port 9000'
    assert commands[-1] == f'.venv/bin/crossvit serve "mine.pth" {options}'


def test_on_a_gpu_engines_are_built_between_pulling_and_serving(folder: Path) -> None:
    commands = planned(folder, "serve", "GPU=1", "VARIANT=crossvit_18_dagger")
    assert installed(commands) == [".[gpu]"]
    pull, build, serve = (line for line in commands if "artifacts/" in line)
    assert "crossvit pull" in pull
    assert "--precision fp16" in pull
    assert "export/to_trt.py --variant crossvit_18_dagger" in build
    assert "serve --bundle artifacts/crossvit_18_dagger" in serve


def test_tests_add_to_what_serving_has_installed(folder: Path) -> None:
    pretend_installed(folder, ".serving-cpu")
    commands = planned(folder, "test")
    assert not any("venv --clear" in command for command in commands)
    assert installed(commands) == [".[cpu,quantize,export,train,otel,dev]"]


def test_serving_after_tests_installs_nothing(folder: Path) -> None:
    pretend_installed(folder, ".serving-cpu", ".installed-cpu")
    assert installed(planned(folder, "serve")) == []
    assert installed(planned(folder, "test")) == []


def test_other_packages_make_the_environment_anew(folder: Path) -> None:
    pretend_installed(folder, ".serving-cpu", ".installed-cpu")
    later = time.time() + 10
    os.utime(folder / "constraints.txt", (later, later))
    assert any("venv --clear" in command for command in planned(folder, "serve"))


def test_pytorchs_index_is_for_what_needs_pytorch(folder: Path) -> None:
    commands = planned(folder, "test", "TORCH_INDEX=https://example.org/cpu")
    with_index = [command for command in commands if "PIP_EXTRA_INDEX_URL" in command]
    assert installed(with_index) == [".[cpu,quantize,export,train,otel,dev]"]
