"""What all command lines have in common: options made from a pydantic model, error messages and exit codes."""

import inspect
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from rich.console import Console
from typer.core import TyperCommand

FAILED = 1  # exit code of a command that could not do its work
MISUSED = 2  # exit code for options that cannot be
STOPPED = 130  # exit code after Ctrl-C
TERMINATED = 143  # exit code after SIGTERM

_PYDANTIC_WORDS = "Input should"  # typer has its messages of bounds and kinds from pydantic

notes = Console(stderr=True, soft_wrap=True, emoji=False)

_METAVARS = {int: "NUMBER", float: "NUMBER", Path: "PATH", str: "TEXT", SecretStr: "KEY"}  # bool has a flag instead


_SHOWN_TYPES = re.compile(  # as typer writes them
    r"<(?:list\[)?(?P<kind>int|float|path|Path|file|str|\w+(?:\|\w+)+)(?: range)?\]?>(?P<gap> *)", re.ASCII
)
_KINDS = {"int": "NUMBER", "float": "NUMBER", "path": "PATH", "Path": "PATH", "file": "FILE", "str": "TEXT"}


class PlainHelpCommand(TyperCommand):
    """A command whose --help names the types of values as `command_of` does: PATH, NUMBER, [table|json]."""

    def get_help(self, ctx: Any) -> str:
        text = super().get_help(ctx).replace("[env var: ", "[env: ")
        head, separator, arguments_and_options = text.partition("\nArguments:")
        arguments, options_title, options = arguments_and_options.partition("\nOptions:")
        if separator:
            return head + separator + _SHOWN_TYPES.sub(_blank, arguments) + options_title + _plain_types(options)
        return _plain_types(text)


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _plain_types(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        kind = match["kind"]
        return (f"[{kind}]" if "|" in kind else _KINDS.get(kind, kind.upper())).ljust(len(match[0]))

    return "\n".join(_SHOWN_TYPES.sub(plain, line).rstrip() for line in text.split("\n"))


class _App(typer.Typer):
    """Its commands have plain help."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        return super().command(name, **({"cls": PlainHelpCommand} | options))


class Misuse(typer.TyperException):
    """Options that are valid each and not together; `run_command` prints the sentence."""

    exit_code = MISUSED


def error(message: object) -> None:
    """Print an error message on standard error."""
    notes.print(f"error: {message}", style="red", markup=False, highlight=False)


def new_app() -> typer.Typer:
    """A typer application for `run_command`; its --help is plain text."""
    return _App(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_command(
    app: typer.Typer, arguments: Sequence[str] | None = None, program: str | None = None, obj: object = None
) -> int:
    """Run `app` with `arguments`, by default those of the process; returns the exit code.

    An invalid argument is a sentence. `program` is the name in --help; the command finds `obj` in its context.
    """
    try:
        code = app(arguments, prog_name=program, standalone_mode=False, obj=obj)
    except typer.TyperException as err:
        error(err.format_message().replace(_PYDANTIC_WORDS, "it must"))
        return err.exit_code
    return code if isinstance(code, int) else 0


@contextmanager
def failures(kinds: tuple[type[Exception], ...], interrupted: Callable[[], str]) -> Iterator[None]:
    """Turn errors of these kinds into a sentence and exit code 1, and Ctrl-C into what it leaves and exit code 130."""
    try:
        yield
    except kinds as err:
        error(err)
        raise typer.Exit(FAILED) from err
    except KeyboardInterrupt:
        error(f"interrupted; {interrupted()}")
        raise typer.Exit(STOPPED) from None


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, with exit code 143. For the main thread."""
    seen = False

    def interrupt(*_: object) -> None:
        nonlocal seen
        seen = True
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except typer.Exit as err:
        if seen and err.exit_code == STOPPED:
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def command_of(
    model: type[BaseModel],
    use: Callable[..., object],
    *,
    positional: str | None = None,
    variable: Callable[[str], str] | None = None,
) -> typer.Typer:
    """A command with an option for each field of `model`; it calls `use` with the values that are given, as text.

    So the model validates them, and what is not given comes from elsewhere. The values of an option that is a list, and
    may be repeated, are joined by commas. `positional` is the field, a list, that has no option. `variable` names the
    environment variable of a field in --help; this function reads none.
    """

    def command(**given: Any) -> object:
        return use(
            **{
                name: ",".join(value) if isinstance(value, list) and name != positional else value
                for name, value in given.items()
                if value is not None and value != []
            }
        )

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_argument(name, field) if name == positional else _option(name, field, variable),
        )
        for name, field in model.model_fields.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = new_app()
    app.command(help=inspect.cleandoc(model.__doc__ or ""))(command)
    return app


def option_name(field: str) -> str:
    """The option of the field called `field`."""
    return f"--{field.replace('_', '-')}"


def spread(arguments: Sequence[str], *options: str) -> list[str]:
    """`arguments` with `--option a b` written as `--option a --option b`, for those of `options`."""
    written: list[str] = []
    option, values = "", 0  # the last one, and how many values of it were seen
    for argument in arguments:
        if argument.startswith("-"):
            option, values = argument, 0
        elif option in options:
            if values:
                written.append(option)
            values += 1
        written.append(argument)
    return written


def _argument(name: str, field: FieldInfo) -> object:
    return Annotated[list[str] | None, typer.Argument(metavar=name.upper(), help=field.description)]


def _option(name: str, field: FieldInfo, variable: Callable[[str], str] | None) -> object:
    help_text = f"{field.description}{_default(field)}{f' [env: {variable(name)}]' if variable else ''}"
    option = option_name(name)
    if field.annotation is bool:
        return Annotated[
            bool | None,
            typer.Option(f"{option}/--no-{option.removeprefix('--')}", help=help_text, show_default=False),
        ]
    kind = list[str] if get_origin(field.annotation) is list else str
    return Annotated[
        kind | None,
        typer.Option(option, help=help_text, metavar=_metavar(field.annotation), show_default=False),
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return " [required]"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default == []:
        return ""
    return f" [default: {str(default).lower() if field.annotation is bool else default}]"


def _metavar(annotation: object) -> str:
    kinds = (annotation, *get_args(annotation))
    if choices := next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ()):
        return f"[{'|'.join(choices)}]"
    metavar = next((_METAVARS[kind] for kind in kinds if kind in _METAVARS), "TEXT")
    return f"{metavar},..." if get_origin(annotation) is list else metavar
