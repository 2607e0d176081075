"""Options made from a pydantic model, and the exit codes and messages of all commands."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field, SecretStr

from model.command_line import command_of, error, new_app, run_command, spread


class Wall(BaseModel):
    """Build a wall."""

    stones: Annotated[list[Path], Field(description="where they are")]
    max_height: Annotated[int, Field(description="of the wall")] = 3
    colour: Annotated[Literal["red", "grey"], Field(description="of the stones")] = "grey"
    sides: Annotated[list[int], Field(default_factory=list, description="in order")]
    mortar: Annotated[bool, Field(description="between the stones")] = True
    key: Annotated[SecretStr | None, Field(description="of the door")] = None


@pytest.fixture
def given() -> dict[str, Any]:
    return {}


@pytest.fixture
def wall(given: dict[str, Any]) -> typer.Typer:
    return command_of(Wall, given.update, positional="stones", variable=lambda name: f"WALL_{name.upper()}")


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], {}),
        (["a", "--max-height", "high", "b"], {"stones": ["a", "b"], "max_height": "high"}),
        (["--sides", "1", "--sides", "2,3", "--no-mortar"], {"sides": "1,2,3", "mortar": False}),
        (["--mortar", "--colour=blue", "--max-height", "-1"], {"mortar": True, "colour": "blue", "max_height": "-1"}),
    ],
)
def test_only_what_is_given_is_handed_on_and_as_text(
    wall: typer.Typer,
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    values: dict[str, Any],
) -> None:
    monkeypatch.setenv("WALL_KEY", "from elsewhere")
    assert run_command(wall, arguments, "build") == 0
    assert given == values


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_says_what_there_is(wall: typer.Typer, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert run_command(wall, [option], "build") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "Usage: build [OPTIONS] [STONES]",
        "Build a wall.",
        "--max-height NUMBER of the wall [default: 3] [env: WALL_MAX_HEIGHT]",
        "--colour [red|grey] of the stones [default: grey] [env: WALL_COLOUR]",
        "--sides NUMBER,... in order [env: WALL_SIDES]",
        "--mortar / --no-mortar between the stones [default: true] [env: WALL_MORTAR]",
        "--key KEY of the door [env: WALL_KEY]",
    ):
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--max-heigth", "1"], "No such option: --max-heigth"), (["--max-height"], "requires an argument")],
)
def test_what_cannot_be_is_a_sentence(
    wall: typer.Typer, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_command(wall, arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(("raised", "code"), [(typer.Exit(1), 1), (KeyboardInterrupt(), 130), (None, 0)])
def test_exit_codes(raised: BaseException | None, code: int) -> None:
    app = new_app()

    @app.command()
    def fail() -> None:
        if raised:
            raise raised

    assert run_command(app, []) == code


def test_errors_have_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    error("[red]x[/red] of :snake: and [/]")
    assert capsys.readouterr().err == "error: [red]x[/red] of :snake: and [/]\n"


@pytest.mark.parametrize(
    ("arguments", "spread_out"),
    [
        (["--side", "1", "2", "--other", "3"], ["--side", "1", "--side", "2", "--other", "3"]),
        (["a", "--side", "1", "--side", "2"], ["a", "--side", "1", "--side", "2"]),
        (["--other", "1", "2"], ["--other", "1", "2"]),
        (["--side", "--other"], ["--side", "--other"]),
        (["--side=1", "2"], ["--side=1", "2"]),
    ],
)
def test_an_option_takes_several_values(arguments: list[str], spread_out: list[str]) -> None:
    assert spread(arguments, "--side") == spread_out
