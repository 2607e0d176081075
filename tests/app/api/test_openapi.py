"""schemathesis against the OpenAPI document of a real server finds nothing but what schemathesis.toml leaves out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.configuration.settings import Settings
from app.main import create_app
from tests.support.servers import Server, crossvit_serve

ROOT = Path(__file__).parents[3]
OPERATIONS = 41
ENGINE = ("--engine", "onnxruntime", "--precision", "f32")


@pytest.fixture(scope="module")
def closed_server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With keys."""
    options = ["--api-keys", "api-key-123", "--admin-keys", "admin-key-123"]
    with crossvit_serve(
        tmp_path_factory.mktemp("closed") / "log", "--bundle", str(bundle), *ENGINE, *options
    ) as server:
        server.wait_until_ready()
        yield server


def assert_finds_nothing(server: Server, *options: str) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json", *options]
    limits = ["--seed", "1", "--request-timeout", "60", "--max-examples", "8"]
    done = subprocess.run(
        [*command, *limits],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in server.log_text()
    assert httpx.get(f"{server.url}/readyz").status_code == 200


@pytest.mark.parametrize("phases", ["examples", pytest.param("coverage", marks=pytest.mark.exhaustive)])
def test_schemathesis_finds_nothing_as_it_comes(server: Server, phases: str) -> None:
    """Everybody may classify, nobody may change the models."""
    closed = "^/admin/|/repository/models/"  # see the next test, which also asks at random
    assert_finds_nothing(server, "--exclude-path-regex", closed, "--phases", phases)


@pytest.mark.parametrize("phases", ["examples,coverage", pytest.param("fuzzing", marks=pytest.mark.exhaustive)])
def test_schemathesis_finds_nothing_with_keys_and_admin_routes(closed_server: Server, phases: str) -> None:
    # Unloading the only model would leave nothing to ask; tests/app/api/test_oip_routes.py unloads.
    header = "Authorization: Bearer admin-key-123"
    assert_finds_nothing(closed_server, "--header", header, "--exclude-path-regex", "unload$", "--phases", phases)


def test_the_document_asks_for_keys_only_where_one_is_needed(bundle: Path) -> None:
    api_keys, admin_keys = [SecretStr("api-key-123")], [SecretStr("admin-key-123")]
    secured = []
    for settings in (Settings(bundle=bundle), Settings(bundle=bundle, api_keys=api_keys, admin_keys=admin_keys)):
        paths = TestClient(create_app(settings)).get("/openapi.json").json()["paths"]
        secured.append(
            {path for path, operations in paths.items() if any("security" in o for o in operations.values())}
        )
        assert sum(map(len, paths.values())) == OPERATIONS
    assert secured[0] == {
        "/admin/reload",
        "/v2/repository/models/{name}/load",
        "/v2/repository/models/{name}/unload",
    }
    assert {"/classify", "/explain", "/embed", "/v1/embeddings", "/models", "/v2/models/{name}/infer"} < secured[1]
    assert "/livez" not in secured[1]


def test_the_document_is_written_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(bundle=bundle, root_path="/crossvit"))
    document = app.openapi
    counted = Mock(side_effect=document)
    monkeypatch.setattr(app, "openapi", counted)
    client = TestClient(app)
    found = [client.get(path) for path in ("/openapi.json", "/crossvit/openapi.json", "/openapi.json")]
    assert [answer.json() for answer in found] == [document()] * 3
    assert {answer.headers["Content-Type"] for answer in found} == {"application/json"}
    assert client.head("/openapi.json").headers["Content-Length"] == str(len(found[0].content))
    assert client.options("/openapi.json").headers["Allow"] == "GET, HEAD, OPTIONS"
    assert counted.call_count == 1
