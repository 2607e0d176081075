"""The image as the chart's and KServe's pods run it: their arguments, variables, user, rights, volumes and probes."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.chart import rendered
from tests.docker.containers import ROOT, run
from tests.support.kserve_environment import kserve_interpreter, said_by_kserve
from tests.support.pictures import JPEG
from tests.support.servers import free_port
from tests.support.service_checks import wait_until_ready
from tests.support.waiting import wait_until

KSERVE = ROOT / "deploy" / "kserve"
UNPRIVILEGED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001")
VARIABLES = {  # to start quickly
    "CROSSVIT_ENGINE": "onnxruntime",
    "CROSSVIT_PRECISION": "f32",
    "CROSSVIT_DECODERS": "1",
}


@contextmanager
def pod(
    image: str, container: dict[str, Any], environment: dict[str, str], mounted: Path, at: str, *options: str
) -> Iterator[tuple[str, str]]:
    """The id and the URL of the running container; `mounted` is its volume of bundles, read-only at `at`."""
    port, inside = free_port(), container["readinessProbe"]["httpGet"]["port"]
    inside = {each.get("name"): each["containerPort"] for each in container["ports"]}.get(inside, inside)
    writable = [
        f"--tmpfs={mount['mountPath']}:mode=1777" for mount in container["volumeMounts"] if not mount.get("readOnly")
    ]
    variables = [f"--env={name}={value}" for name, value in (environment | VARIABLES).items()]
    words = [
        *UNPRIVILEGED,
        *writable,
        *variables,
        *options,
        f"--volume={mounted}:{at}:ro",
        f"--publish=127.0.0.1:{port}:{inside}",
    ]
    identity = run("run", "--detach", *words, image, *container["args"]).strip()
    try:
        yield identity, f"http://127.0.0.1:{port}"
    finally:
        run("rm", "--force", identity)


def check(identity: str, url: str, container: dict[str, Any], model: str) -> None:
    """It is ready where the probe asks, serves the model by its name, and ends with 0."""
    path = container["readinessProbe"]["httpGet"]["path"]

    def ready() -> bool:
        assert run("inspect", "--format", "{{.State.Running}}", identity).strip() == "true", run("logs", identity)
        try:
            return httpx.get(f"{url}{path}").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, 120)
    assert httpx.get(f"{url}/v2/models/{model}/ready").status_code == 200
    answer = httpx.post(f"{url}/classify", content=JPEG, timeout=60).json()
    assert answer["model"]["name"] == model
    run("stop", "--time", "45", identity, seconds=60)
    assert run("inspect", "--format", "{{.State.ExitCode}}", identity).strip() == "0"


def readable(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle that the container's user can read."""
    shutil.copytree(bundle, folder)
    folder.chmod(0o755)
    return folder


def test_kserve_finds_a_bundle_at_mnt_models_under_the_name_of_the_inference_service(
    images: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    container = kserve_container()
    with pod(images["crossvit-cpu"], container, {}, readable(bundle, tmp_path / "models"), "/mnt/models") as running:
        check(*running, container, "flowers")


@pytest.mark.exhaustive
def test_kserves_clients_are_answered_by_the_container(
    images: dict[str, str], bundle: Path, tmp_path: Path, shared: Callable[[str, Callable[[Path], object]], Path]
) -> None:
    python, container = kserve_interpreter(shared), kserve_container()
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    model = yaml.safe_load((KSERVE / "grpc.yaml").read_text())["spec"]["predictor"]["model"]
    container["args"] += model["args"]
    port = free_port()
    published = f"--publish=127.0.0.1:{port}:{model['ports'][0]['containerPort']}"
    models = readable(bundle, tmp_path / "models")
    with pod(images["crossvit-cpu"], container, {}, models, "/mnt/models", published) as (_, url):
        wait_until_ready(url)
        found = said_by_kserve(python, "kserve_clients.py", url, "flowers", str(tmp_path / "photo.jpg"), str(port))
        assert found["rest"]["model"] == "flowers"
        assert found["grpc"] == found["rest"]


def kserve_container() -> dict[str, Any]:
    """The ServingRuntime's, for an InferenceService called flowers."""
    runtime = yaml.safe_load((KSERVE / "serving-runtime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    found: dict[str, Any] = {**container, "args": [text.replace("{{.Name}}", "flowers") for text in container["args"]]}
    return found


def test_a_pod_of_the_chart_serves_bundles_of_a_claim(images: dict[str, str], bundle: Path, tmp_path: Path) -> None:
    values = {"model": {"from": "claim", "claim": "bundles", "path": "served"}}
    objects = {manifest["kind"]: manifest for manifest in rendered(values)}
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    (tmp_path / "claim").mkdir(mode=0o755)
    readable(bundle, tmp_path / "claim" / "served")
    with pod(
        images["crossvit-cpu"], container, objects["ConfigMap"]["data"], tmp_path / "claim", "/bundles"
    ) as running:
        check(*running, container, "served")
