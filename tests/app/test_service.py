"""The real service: `crossvit serve` in a process of its own, its start and what it says of itself."""

import json
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.configuration.settings import Settings
from app.main import create_app
from tests.app.engines import fakes
from tests.support.pictures import JPEG
from tests.support.plans import put_plan
from tests.support.problems import assert_problem
from tests.support.servers import StartServer
from tests.support.waiting import wait_until

FEW_PROCESSES = ("--engine", "onnxruntime", "--decoders", "1")


def test_the_docs_need_no_other_site(bundle: Path) -> None:
    client = TestClient(create_app(Settings(bundle=bundle)))
    page = client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    schema = client.get("/openapi.json").json()
    classify = schema["paths"]["/classify"]["post"]
    assert {"multipart/form-data", "image/*", "application/octet-stream"} == classify["requestBody"]["content"].keys()
    expected = {200, 400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504}
    assert {str(status) for status in expected} == classify["responses"].keys()
    assert classify["responses"]["422"]["content"].keys() == {"application/problem+json"}


@pytest.mark.parametrize(("docs", "page"), [(True, "docs"), (False, None)])
def test_the_root_says_where_to_go_on(bundle: Path, docs: bool, page: str | None) -> None:
    client = TestClient(create_app(Settings(bundle=bundle, docs=docs)))
    links = client.get("/").json()
    assert (links["classify"], links["models"], links["ready"], links["docs"]) == ("classify", "models", "readyz", page)
    assert links["service"].startswith("CrossViT image classification 0.")


def test_it_is_live_before_it_is_ready_and_warns_of_untrained_weights(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    untrained = Path(shutil.copytree(bundle, tmp_path / "b"))
    manifest = json.loads((untrained / "manifest.json").read_text())
    manifest["weights"] = {"id": "untrained", "source": "random initial weights"}
    (untrained / "manifest.json").write_text(json.dumps(manifest))
    server = start_server("--bundle", str(untrained), "--engine", "onnxruntime")
    seen = set()

    def ready() -> bool:
        try:
            live, ready = (httpx.get(f"{server.url}/{path}") for path in ("livez", "readyz"))
        except httpx.TransportError:
            return False  # not listening yet
        seen.add((live.status_code, ready.status_code))
        if ready.status_code == 503:
            assert_problem(ready, 503, "b is loading")
        return ready.status_code == 200

    wait_until(ready, seconds=60)
    assert seen == {(200, 503), (200, 200)}
    answer = httpx.post(f"{server.url}/classify", files={"file": JPEG}).json()
    assert answer["model"]["weights"] == "untrained"
    assert answer["model"]["engine"] == "onnxruntime"
    (model,) = httpx.get(f"{server.url}/models").json()["models"]
    assert model["weights"] == "untrained"
    assert "UNTRAINED WEIGHTS" in model["warning"]
    assert "UNTRAINED WEIGHTS" in server.log_text()


def test_a_resolution_is_preloaded_or_loads_at_its_first_request(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), "--engine", "onnxruntime", "--preload", "384")
    server.wait_until_ready()

    def loaded() -> list[int]:
        found: list[int] = httpx.get(f"{server.url}/models").json()["models"][0]["loaded_resolutions"]
        return found

    assert loaded() == [224, 384]
    assert httpx.post(f"{server.url}/classify?resolution=480", files={"file": JPEG}, timeout=60).status_code == 200
    assert loaded() == [224, 384, 480]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "/nowhere"], "no bundle at /nowhere"),
        (["--port", "x"], "setting port"),
        (["--preload", "225"], "cannot preload 225"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "no engine here for engine=onnxruntime, precision=bf16"),
        (["--max-queue", "8"], "max_images must not be over max_queue"),
    ],
)
def test_a_service_that_cannot_start_says_why_and_ends(bundle: Path, options: list[str], message: str) -> None:
    serve = [sys.executable, "-m", "app", "serve", "--port", "0", "--bundle", str(bundle)]
    command = [*serve, *FEW_PROCESSES, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr.replace("\n", " ")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_tensorrt_asking_for_it_ends_the_service_and_a_plan_changes_nothing(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    put_plan(copied)
    serve = [sys.executable, "-m", "app", "serve", "--port", "0", "--bundle", str(copied), "--engine", "tensorrt"]
    done = subprocess.run([*serve, "--decoders", "1"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no engine here for engine=tensorrt, precision=auto: " in done.stderr
    server = start_server("--bundle", str(copied), "--precision", "f32")
    server.wait_until_ready()
    (model,) = httpx.get(f"{server.url}/models").json()["models"]
    assert (model["engine"] in ("openvino", "onnxruntime"), model["fallbacks"]) == (True, [])
    assert "crossvit_engine_refused{" not in httpx.get(f"{server.url}/metrics").text


def test_a_refused_engine_is_in_models_metrics_and_once_in_the_log(
    bundle: Path, tmp_path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is a fake, since there is none here."""
    gpu = fakes.in_workers(tmp_path, monkeypatch)
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    put_plan(copied)
    gpu.does(tensorrt="refused", cuda="works")
    server = start_server("--bundle", str(copied))
    server.wait_until_ready()
    reason = "the driver is too old; update it"
    (model,) = httpx.get(f"{server.url}/models").json()["models"]
    assert (model["engine"], model["precision"]) == ("onnxruntime-cuda", "f32")
    assert model["fallbacks"] == [{"engine": "tensorrt", "resolution": 224, "reason": reason}]
    assert 'crossvit_engine_refused{engine="tensorrt",model="b"} 1.0' in httpx.get(f"{server.url}/metrics").text
    config = httpx.get(f"{server.url}/v2/models/b/config").json()
    assert config["instance_group"] == [{"kind": "KIND_GPU", "count": 1}]
    assert config["dynamic_batching"] == {"preferred_batch_size": [16]}
    gpu.does(tensorrt="works", cuda="works")
    answer = httpx.post(f"{server.url}/classify?resolution=384", files={"file": JPEG}, timeout=60).json()
    assert answer["model"]["engine"] == "onnxruntime-cuda"
    fallbacks = httpx.get(f"{server.url}/models").json()["models"][0]["fallbacks"]
    assert [(one["engine"], one["resolution"]) for one in fallbacks] == [("tensorrt", 224), ("tensorrt", 384)]
    (line,) = [line for line in server.log_text().splitlines() if reason in line]
    assert "warning" in line


def test_an_engine_that_cannot_start_is_not_ready_under_any_asgi_server(bundle: Path) -> None:
    settings = Settings(bundle=bundle, engine="onnxruntime", precision="bf16")
    with TestClient(create_app(settings)) as client:
        wait_until(lambda: "is loading" not in client.get("/readyz").text)
        assert client.get("/livez").status_code == 200
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "crossvit_tiny is not served: it could not be loaded" in answer.json()["detail"]
        assert "precision=bf16" in client.get("/models").json()["models"][0]["reason"]


def test_a_port_in_use_ends_the_service_before_its_engine_loads(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "app", "serve", "--bundle", str(bundle), "--port", port, *FEW_PROCESSES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()
    assert "Traceback" not in done.stderr  # neither the service's nor that of a process that it had no need of
    assert "images/s" not in done.stderr
