import json
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.engines import registry
from app.engines.interface import EngineFiles
from app.engines.null_engine import offer_null
from tests.support.pictures import JPEG
from tests.support.servers import StartServer


@pytest.mark.parametrize("images", [1, 32, 40])
def test_zeros_take_the_seconds_of_the_rate(images: int) -> None:
    (engine,) = offer_null(EngineFiles({}, classes=5, null_rate=400), 224)
    began = time.perf_counter()
    outputs = engine.run(np.zeros((images, 224, 224, 3), np.uint8))
    assert images / 400 <= time.perf_counter() - began < images / 400 + 0.05
    assert outputs.shape == (3, images, 5)
    assert outputs.dtype == np.float32
    assert not outputs.any()


def test_auto_never_takes_it() -> None:
    assert registry.NULL_ENGINE not in {name for tier in registry.TIERS for name in tier}


def test_it_serves_by_name_and_says_so(start_server: StartServer, bundle: Path) -> None:
    server = start_server("--bundle", str(bundle), "--engine", "null", "--null-rate", "20")
    server.wait_until_ready()
    began = time.perf_counter()
    answer = httpx.post(f"{server.url}/classify", files={"file": JPEG})
    assert answer.status_code == 200
    assert time.perf_counter() - began >= 1 / 20
    assert {one["score"] for one in answer.json()["predictions"]} == {answer.json()["predictions"][0]["score"]}
    assert httpx.get(f"{server.url}/readyz", params={"deep": "1"}).status_code == 200
    (model,) = httpx.get(f"{server.url}/models").json()["models"]
    assert model["engine"] == "null"
    (warning,) = (json.loads(line) for line in server.log_lines() if "--engine null" in line)
    assert warning["level"] == "warning"
