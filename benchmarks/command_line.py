"""What the command lines of all benchmarks have in common."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bundle.bundle_errors import ExplainedError
from model.command_line import FAILED, STOPPED, error, new_app, run_command

PhotosFolder = Annotated[Path, typer.Argument(help="folder of JPEG files")]
BundlePath = Annotated[Path, typer.Option(help="the bundle that is served")]


def run(*commands: Callable[..., None], program: str) -> None:
    """Run the command, or the one of several that the arguments name, and end the process; errors are sentences."""
    app = new_app()
    for command in commands:
        app.command()(command)
    try:
        code = run_command(app, program=f"python -m {program}")
    except (ExplainedError, OSError, RuntimeError, ValueError) as err:
        error(err)
        code = FAILED
    except (KeyboardInterrupt, typer.Abort):
        error("interrupted")
        code = STOPPED
    sys.exit(code)
