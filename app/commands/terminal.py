"""Terminal output of the service's commands, and their errors as sentences."""

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
from model.command_line import MISUSED, error, option_name


def print_table(table: Table) -> None:
    """Print `table` on standard output; its width is not limited if that is not a terminal."""
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def allow_any_file_name() -> None:
    """Let standard output print file names that are not UTF-8."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def check_absent(needed: str, **options: object) -> None:
    """BadParameter if one of `options`, which need the option `needed`, has a value."""
    for name, value in options.items():
        if value is not None:
            raise BadParameter(f"{option_name(name)} goes with {needed}")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors that a user can correct into a sentence and exit code 2, not a traceback."""
    try:
        yield
    except ExplainedError as err:
        error(err)
        raise typer.Exit(MISUSED) from err
    except ValidationError as err:
        from app.configuration.settings_errors import describe_errors  # here, since few commands need it

        for message in describe_errors(err):
            error(message)
        raise typer.Exit(MISUSED) from err
