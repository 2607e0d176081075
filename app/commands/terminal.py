"""What all commands say on the terminal: tables on standard output, everything about them on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app.errors import BadParameter
from bundle.bundle_errors import ExplainedError

notes = Console(stderr=True, soft_wrap=True)

STOPPED = 130  # the exit code of what Ctrl-C has ended


def error(message: object) -> None:
    """Say what went wrong."""
    notes.print(f"error: {message}", style="red", markup=False, highlight=False)


def print_table(table: Table) -> None:
    """Print `table` on standard output, as wide as it needs to be where that is no terminal."""
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def take_any_name() -> None:
    """Let names of files that are no UTF-8 be printed on standard output."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def absent(needed: str, **options: object) -> None:
    """BadParameter if one of `options` is given, which go with the option `needed`."""
    for name, value in options.items():
        if value is not None:
            raise BadParameter(f"--{name.replace('_', '-')} goes with {needed}")


@contextmanager
def clear_errors() -> Iterator[None]:
    """What a user can mend ends the command with a sentence and exit code 2, not with a traceback."""
    try:
        yield
    except ExplainedError as err:
        error(err)
        raise typer.Exit(2) from err
    except ValidationError as err:
        from app.configuration.settings_errors import complaints  # here, since most commands end well

        for complaint in complaints(err):
            error(complaint)
        raise typer.Exit(2) from err
