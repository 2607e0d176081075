"""The routes for operators and probes, at a real server."""

from pathlib import Path

import httpx

from bundle.reader import open_bundle
from tests.support.agreements import GOOD, with_8_bits
from tests.support.servers import StartServer
from tests.support.waiting import wait_until


def test_models_says_what_is_served(client: httpx.Client, bundle: Path) -> None:
    opened = open_bundle(bundle)
    (model,) = client.get("/models").json()["models"]
    assert model["name"] == "crossvit_tiny"
    assert model["default"]
    assert model["resolutions"] == [224, 384, 480]
    assert 224 in model["loaded_resolutions"]
    assert model["classes"] == 1000
    assert model["precision"] == "f32"
    assert model["agreement"] == {}
    assert model["weights"] == opened.manifest.weights.id
    assert model["bundle"] == opened.hash
    assert model["warning"] is None


def test_models_says_how_what_is_served_agrees_with_float32(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    eight_bits = with_8_bits(bundle, tmp_path / "eight")
    server = start_server("--bundle", str(eight_bits), "--engine", "openvino", "--precision", "int8")
    server.wait_until_ready()
    (model,) = httpx.get(f"{server.url}/models").json()["models"]
    assert model["agreement"] == {"224": GOOD.model_dump()}
    wait_until(lambda: f"eight at 224, int8: {GOOD.describe()}" in server.log_text())
