import re

import pytest

from app.configuration.environment import remarks, variables

SERVICE = {  # what Kubernetes sets for a Service crossvit with a named port
    "CROSSVIT_PORT": "tcp://10.96.0.12:8000",
    "CROSSVIT_SERVICE_HOST": "10.96.0.12",
    "CROSSVIT_SERVICE_PORT": "8000",
    "CROSSVIT_SERVICE_PORT_HTTP": "8000",
    "CROSSVIT_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "CROSSVIT_PORT_8000_TCP_PROTO": "tcp",
    "CROSSVIT_PORT_8000_TCP_PORT": "8000",
    "CROSSVIT_PORT_8000_TCP_ADDR": "10.96.0.12",
}
SETTINGS = ["CROSSVIT_PORT", "CROSSVIT_ADMIN_PORT", "CROSSVIT_MAX_QUEUE", "CROSSVIT_API_KEYS", "CROSSVIT_HOST"]


def renamed(environ: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.replace("CROSSVIT_", prefix): value for name, value in environ.items()}


@pytest.mark.parametrize("prefix", ["CROSSVIT_", "CROSSVIT_ADMIN_"])
@pytest.mark.parametrize(
    "url", ["tcp://10.96.0.12:8000", "udp://10.96.0.12:53", "sctp://10.0.0.1:9", "tcp://[fd00::1]:80"]
)
def test_the_variables_that_kubernetes_sets_for_a_service_are_not_settings(prefix: str, url: str) -> None:
    environ = renamed(SERVICE, prefix) | {f"{prefix}PORT": url}
    assert variables(environ) == {}
    (remark,) = remarks(environ, SETTINGS)
    assert remark.startswith(f"{prefix}PORT={url} is ignored")
    assert "enableServiceLinks: false" in remark


def test_the_variables_of_a_service_with_another_name_are_ignored_without_a_remark() -> None:
    environ = renamed(SERVICE, "CROSSVIT_API_") | {"CROSSVIT_DB_NAME": "/web/db", "CROSSVIT_DB_ENV_LANG": "C"}
    assert (variables(environ), remarks(environ, SETTINGS)) == ({}, [])


@pytest.mark.parametrize("value", ["x", "tcp://", "tcp://10.96.0.12", "http://10.96.0.12:80", "10.96.0.12:8000"])
def test_a_port_that_is_not_a_service_link_is_left_to_the_settings_to_refuse(value: str) -> None:
    assert variables({"CROSSVIT_PORT": value}) == {"CROSSVIT_PORT": value}


def test_a_url_is_a_service_link_for_ports_alone() -> None:
    assert variables({"CROSSVIT_HOST": "tcp://10.96.0.12:8000"}) != {}


@pytest.mark.parametrize("written", ['"8000"', "'8000'", " 8000 ", "8000\n", "8000\r\n", '"8000" \n', "\ufeff8000"])
def test_quotes_and_line_ends_around_a_value_are_not_its_own(written: str) -> None:
    assert variables({"crossvit_port": written}) == {"CROSSVIT_PORT": "8000"}


@pytest.mark.parametrize("written", ["", " ", "\n", '""'])
def test_a_variable_without_a_value_is_one_that_is_not_set(written: str) -> None:
    assert variables({"CROSSVIT_PORT": written}) == {}


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("CROSSVIT_MAX_QUEU", "CROSSVIT_MAX_QUEU is not a setting; CROSSVIT_MAX_QUEUE is;"),
        ("CROSSVIT_APIKEYS", "CROSSVIT_APIKEYS is not a setting; CROSSVIT_API_KEYS is;"),
        ("CROSSVIT_API_KEY", "CROSSVIT_API_KEY is the key that .* send; the service reads CROSSVIT_API_KEYS;"),
        ("CROSSVIT_WORKERS", "CROSSVIT_WORKERS is not a setting; `crossvit serve --help` lists the settings"),
        ("CROSSVIT_MODEL_NAME", "CROSSVIT_MODEL_NAME is not a setting"),
    ],
)
def test_a_variable_that_nobody_reads_is_named_without_its_value(name: str, remark: str) -> None:
    (sentence,) = remarks({name: "secret", "HOME": "/", "CROSSVIT_PORT": "80"}, SETTINGS)
    assert re.match(remark, sentence)
    assert "secret" not in sentence
