"""A Python that has the package kserve, whose pins would replace those of this project, and what it prints."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KSERVE = "kserve==0.21.0"
_SCRIPTS = Path(__file__).parents[1] / "deploy"


def kserve_interpreter(shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The interpreter of an environment that is made once for all tests; without it the test is skipped, or fails."""

    def install(folder: Path) -> None:
        environment = folder / "venv"
        for words in (["venv", str(environment)], ["pip", "install", f"--python={environment}", KSERVE]):
            done = subprocess.run([sys.executable, "-m", "uv", *words], capture_output=True, text=True, check=False)
            if done.returncode:
                (folder / "error").write_text(done.stderr)
                return

    folder = shared("kserve", install)
    if (folder / "error").exists():
        (pytest.fail if os.environ.get("TESTS_COMPLETE") else pytest.skip)(
            f"{KSERVE} cannot be installed: {(folder / 'error').read_text()[-300:]}"
        )
    return folder / "venv" / "bin" / "python"


def said_by_kserve(python: Path, script: str, *words: str) -> Any:
    """What a script of tests/deploy prints, run by that interpreter."""
    command = [str(python), str(_SCRIPTS / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
