"""The routes for operators and probes, at a real server."""

from pathlib import Path

import httpx

from bundle.reader import open_bundle


def test_models_says_what_is_served(client: httpx.Client, bundle: Path) -> None:
    opened = open_bundle(bundle)
    (model,) = client.get("/models").json()["models"]
    assert model["name"] == "crossvit_tiny"
    assert model["default"]
    assert model["resolutions"] == [224, 384, 480]
    assert 224 in model["loaded_resolutions"]
    assert model["classes"] == 1000
    assert model["precision"] == "f32"
    assert model["weights"] == opened.manifest.weights.id
    assert model["bundle"] == opened.hash
    assert model["warning"] is None
