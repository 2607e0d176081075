"""What the command lines of all benchmarks have in common."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bundle.bundle_errors import ExplainedError
from model.command_line import FAILED, STOPPED, error, new_app, run_command
from model.dataset import BadDataset
from model.weights import WeightsUnavailable
from tests.support.servers import ServerEnded

PhotosFolder = Annotated[Path, typer.Argument(help="folder of JPEG files")]
BundlePath = Annotated[Path, typer.Option(help="the bundle that is served")]


def run(*commands: Callable[..., None], program: str) -> None:
    """Run the command, or the one of several that the arguments name, and end the process; errors are sentences."""
    app = new_app()
    for command in commands:
        app.command()(command)
    try:
        code = run_command(app, program=f"python -m {program}")
    except (ExplainedError, BadDataset, WeightsUnavailable, ServerEnded, OSError, RuntimeError, ValueError) as err:
        error(err)
        code = FAILED
    except subprocess.CalledProcessError as err:
        error(f"{' '.join(map(str, err.cmd))} ended with status {err.returncode}")
        code = FAILED
    except (KeyboardInterrupt, typer.Abort):
        error("interrupted")
        code = STOPPED
    sys.exit(code)
