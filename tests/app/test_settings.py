from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_the_environment_and_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSVIT_PORT", "9000")
    monkeypatch.setenv("CROSSVIT_MAX_BATCH", "16")
    settings = Settings.from_command_line(["--max-batch", "32", "--bundle", "b"])
    assert (settings.port, settings.max_batch, settings.bundle) == (9000, 32, Path("b"))


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "API_KEYS_FILE", "PRELOAD"):
        monkeypatch.setenv(f"CROSSVIT_{name}", "")
    assert Settings() == Settings.model_construct()


@pytest.mark.parametrize("written", ["224,384", "224 384", "[224, 384]"])
def test_a_list_is_written_with_commas(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("CROSSVIT_PRELOAD", written)
    assert Settings().preload == [224, 384]
    assert Settings.from_command_line(["--preload", "480"]).preload == [480]


@pytest.mark.parametrize(
    ("name", "value"), [("port", "x"), ("max_batch", "-1"), ("engine", "tpu"), ("precision", "int4")]
)
def test_a_value_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"CROSSVIT_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_the_operators_guide_lists_every_setting_with_its_default() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    for name, field in Settings.model_fields.items():
        row = next(line for line in guide.splitlines() if line.startswith(f"| `--{name.replace('_', '-')}`"))
        assert f"`CROSSVIT_{name.upper()}`" in row
        cell = f"| `{field.default}` |" if field.default not in ([], None) else "|  |"
        assert cell in row


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_images": 100, "max_queue": 64}, "max_images must not be over max_queue"),
        ({"rate_limit": "10/minute"}, "rate_limit is for each API key"),
        ({"rate_limit": "0/minute", "api_keys": "long-enough"}, "rate_limit"),
        ({"admin_port": 8000}, "admin_port must not be the port"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**settings)  # type: ignore[arg-type]


def test_as_many_images_as_one_likes_may_come_where_the_queue_is_as_long_as_the_engine_needs() -> None:
    assert Settings(max_images=100).max_queue == 0
