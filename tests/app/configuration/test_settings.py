from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app.configuration.settings import Settings, log_remarks
from app.configuration.settings_errors import describe_errors


def test_the_environment_and_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSVIT_PORT", "9000")
    monkeypatch.setenv("CROSSVIT_MAX_BATCH", "16")
    settings = Settings.from_command_line(["--max-batch", "32", "--bundle", "b"])
    assert (settings.port, settings.max_batch, settings.bundle) == (9000, 32, Path("b"))


def test_options_that_are_true_or_false_are_flags() -> None:
    settings = Settings.from_command_line(["--no-docs", "--scaled-jpeg"])
    assert (settings.docs, settings.scaled_jpeg) == (False, True)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "API_KEYS_FILE", "PRELOAD"):
        monkeypatch.setenv(f"CROSSVIT_{name}", "")
    assert Settings() == Settings.model_construct()


@pytest.mark.parametrize("written", ["224,384", "224 384", "[224, 384]", "[224 384]", '"224,384"\n', "'224','384'"])
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
    guide = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    for name, field in Settings.model_fields.items():
        option = "SOURCE …" if name == "sources" else f"--{name.replace('_', '-')}"
        row = next(line for line in guide.splitlines() if line.startswith(f"| `{option}`"))
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
        ({"grpc_port": 8000}, "grpc_port must be a port of its own"),
        ({"grpc_port": 9000, "admin_port": 9000}, "grpc_port must be a port of its own"),
        ({"model_name": "a", "default_model": "b"}, "model_name is the name of the only model"),
        ({"model_name": "a", "sources": ["b", "c"]}, "model_name is the name of the only model"),
        ({"model_name": "a/b"}, "'a/b' is not a model's name, which has 1 to 100 letters"),
        ({"model_name": "."}, "'.' is not a model's name"),
        ({"model_name": ".."}, "'..' is not a model's name"),
        ({"model_name": "-rf"}, "'-rf' is not a model's name"),
        ({"model_name": "a", "shadow": "b"}, "with model_name there is only one"),
        ({"answer_log": "answers"}, "answer_log has the answers of drift_percent"),
        ({"shadow_percent": 10}, "shadow_percent is a share of the requests for shadow: set that too"),
        ({"canary_percent": 10}, "canary_percent is a share of the requests for canary: set that too"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "v1.2", ".hidden", "...", "_-.", "9" * 100])
def test_names_of_models_have_letters_digits_dots_and_dashes(name: str) -> None:
    assert Settings(model_name=name).model_name == name


def test_max_images_is_not_bounded_by_an_automatic_queue() -> None:
    assert Settings(max_images=100).max_queue == 0


def test_a_port_of_a_kubernetes_service_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CROSSVIT_PORT", "tcp://10.96.0.12:8000")
    monkeypatch.setenv("CROSSVIT_ADMIN_PORT", "tcp://10.96.0.13:9000")
    settings = Settings.from_command_line([])
    assert (settings.port, settings.admin_port) == (8000, None)
    log_remarks()
    assert [record.getMessage().partition("=")[0] for record in caplog.records] == [
        "CROSSVIT_ADMIN_PORT",
        "CROSSVIT_PORT",
    ]


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("max_pixels", "1e7", 10**7),
        ("max_body_bytes", "256Mi", 256 << 20),
        ("decode_bytes", "2GB", 2 * 10**9),
        ("body_seconds", "1m30s", 90),
        ("grace_seconds", "0s", 0),
        ("admin_port", "9_000", 9000),
        ("docs", "OFF", False),
        ("log_level", "WARNING", "warning"),
    ],
)
def test_values_as_people_write_them(monkeypatch: pytest.MonkeyPatch, name: str, written: str, value: object) -> None:
    monkeypatch.setenv(f"CROSSVIT_{name.upper()}", written)
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize(
    "written", ["ann:first-key,second-key", '["ann:first-key", "second-key"]', '"ann:first-key" "second-key"']
)
def test_keys_are_without_the_quotes_of_a_list(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("CROSSVIT_API_KEYS", written)
    assert [key.get_secret_value() for key in Settings().api_keys] == ["ann:first-key", "second-key"]


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("port", "x", "'x' is not a whole number from 0 to 65535"),
        ("port", "70000", "70000 is not a whole number from 0 to 65535"),
        ("max_body_bytes", "256m", "'256m' is not a number of bytes, such as 10000000, 10MB or 10MiB, from 1 on"),
        ("body_seconds", "0", "'0' is not a number of seconds, such as 90, 1.5m or 1m30s, over 0 up to 86400"),
        ("least_agreement", "99", "99 is not a number from 0 to 1"),
        ("engine", "tpu", "'tpu' is not one of auto, tensorrt,"),
        ("docs", "2", "'2' is not true or false"),
        ("preload", "384;480", "'384;480' is not whole numbers separated by commas"),
        ("rate_limit", "5 per minute", "'5 per minute' is not valid: images per key, such as 100/minute"),
    ],
)
def test_a_complaint_says_what_was_seen_what_would_do_and_where_it_is_set(
    monkeypatch: pytest.MonkeyPatch, name: str, written: str, message: str
) -> None:
    monkeypatch.setenv(f"CROSSVIT_{name.upper()}", written)
    with pytest.raises(ValidationError) as caught:
        Settings(api_keys=[SecretStr("a-long-secret")])
    (complaint,) = describe_errors(caught.value)
    assert complaint.startswith(f"setting {name}: {message}")
    assert f"--{name.replace('_', '-')}, or CROSSVIT_{name.upper()} in the environment" in complaint


@pytest.mark.parametrize("wrong", [{"api_keys": "[1234567890]"}, {"max_images": "100", "max_queue": "64"}])
def test_no_error_shows_a_key(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]) -> None:
    monkeypatch.setenv("CROSSVIT_ADMIN_KEYS", "1234567890")
    for name, value in wrong.items():
        monkeypatch.setenv(f"CROSSVIT_{name.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "1234567890" not in " ".join([str(caught.value), *describe_errors(caught.value)])


def test_bounds_of_the_service_are_divided_between_instances_with_room_for_a_request_in_each() -> None:
    service = Settings(
        max_connections=1000,
        max_queue=64,
        max_images=20,
        max_bodies_bytes=100_000_000,
        max_body_bytes=30_000_000,
        decoders=3,
    )
    assert service.for_one_of(1) == service
    part = service.for_one_of(4)
    assert (part.max_connections, part.max_queue, part.decoders) == (250, 20, 1)
    assert (part.max_bodies_bytes, part.max_body_bytes, part.max_images) == (30_000_000, 30_000_000, 20)
    assert Settings().for_one_of(4).max_queue == 0


def test_the_number_of_instances_is_a_number_or_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSVIT_INSTANCES", "Auto")
    assert Settings().instances == 0
    assert Settings.from_command_line(["--instances", "3"]).instances == 3
