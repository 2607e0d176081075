"""deploy/kserve: KServe's models know every field, and the service serves what the storage initialiser lays out.

The operator is not here: what it makes of these manifests has not been seen.
"""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from app.configuration.settings import Settings
from app.main import create_app
from deploy.chart import CHART
from tests.support.kserve_environment import kserve_interpreter, said_by_kserve
from tests.support.kubectl import KUBECTL, needs_kubectl
from tests.support.pictures import JPEG
from tests.support.servers import Server, StartServer, free_port

FOLDER = CHART.parents[1] / "kserve"
MOUNTED = "/mnt/models"  # where the storage initialiser puts what storageUri names
NAME = "flowers"
ENGINE = ("--engine", "onnxruntime", "--precision", "f32")


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


@pytest.fixture
def container() -> dict[str, Any]:
    (only,) = manifest("serving-runtime.yaml")["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def arguments(container: dict[str, Any]) -> list[str]:
    """Those of `crossvit serve`, with the InferenceService's name, as KServe fills it in."""
    command, *given = container["args"]
    assert command == "serve"
    return [text.replace("{{.Name}}", NAME) for text in given]


@pytest.fixture(params=["the bundle itself", "a folder with the bundle", "a link to the bundle", "a checkpoint"])
def models(request: pytest.FixtureRequest, bundle: Path, tiny_weights: Path, tmp_path: Path) -> Path:
    """/mnt/models as the storage initialiser lays it for s3:// and gs://, for pvc:// with and without a folder, hf://."""
    mounted = tmp_path / "models"
    match request.param:
        case "the bundle itself":
            shutil.copytree(bundle, mounted)
        case "a folder with the bundle":
            shutil.copytree(bundle, mounted / "7f3a")
        case "a link to the bundle":
            mounted.symlink_to(bundle)
        case "a checkpoint":
            mounted.mkdir()
            shutil.copy(tiny_weights, mounted / "model.safetensors")
    return mounted


@pytest.fixture
def served(
    models: Path,
    container: dict[str, Any],
    start_server: StartServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Server:
    """The service with the arguments of the ServingRuntime, but a free port."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = [text.replace(MOUNTED, str(models)) for text in arguments(container)]
    server = start_server(*[text for text in given if not text.startswith("--port=")], *ENGINE)
    server.wait_until_ready(600)
    return server


def test_the_service_takes_the_arguments_and_kserve_asks_where_it_listens(
    container: dict[str, Any], bundle: Path
) -> None:
    settings = Settings.from_command_line(arguments(container))
    assert (settings.sources, settings.model_name) == ([MOUNTED], NAME)
    assert [port["containerPort"] for port in container["ports"]] == [settings.port]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {settings.port}
    served = create_app(Settings(bundle=bundle)).openapi()["paths"]
    annotations = manifest("serving-runtime.yaml")["spec"]["annotations"]
    assert {*(probe["path"] for probe in probes), annotations["prometheus.kserve.io/path"]} <= served.keys()
    assert annotations["prometheus.kserve.io/port"] == str(settings.port)


def test_kubernetes_knows_every_field_of_the_runtimes_container() -> None:
    """As a pod of Kubernetes: KServe copies the container and the volumes into one."""
    spec = manifest("serving-runtime.yaml")["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": spec["containers"], "volumes": spec["volumes"]},
    }
    kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize("name", ["inference-service.yaml", "canary.yaml", "grpc.yaml"])
def test_an_inference_service_names_the_runtime_and_gives_it_time_to_stop(name: str) -> None:
    spec, runtime, settings = manifest(name)["spec"], manifest("serving-runtime.yaml"), Settings()
    formats = {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    for predictor in (spec["predictor"], *(canary["predictor"] for canary in spec.get("canary", ()))):
        assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
        assert predictor["model"]["modelFormat"]["name"] in formats
        assert predictor["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
        assert predictor["terminationGracePeriodSeconds"] > settings.grace_seconds + settings.drain_seconds
        assert predictor["enableServiceLinks"] is False


def test_the_service_takes_the_arguments_of_a_predictor_of_grpc(container: dict[str, Any]) -> None:
    model = manifest("grpc.yaml")["spec"]["predictor"]["model"]
    settings = Settings.from_command_line([*arguments(container), *model["args"]])
    assert [port["containerPort"] for port in model["ports"]] == [settings.grpc_port]


@needs_kubectl
def test_with_a_port_of_grpc_each_port_of_the_pod_has_a_name(container: dict[str, Any], tmp_path: Path) -> None:
    """KServe merges the predictor's container into the runtime's as Kubernetes does."""
    model = manifest("grpc.yaml")["spec"]["predictor"]["model"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
    patch = {"spec": {"containers": [{"name": container["name"], "ports": model["ports"]}]}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    words = [KUBECTL, "patch", "--local", "-f", str(tmp_path / "pod.yaml"), "-p", json.dumps(patch), "-o", "yaml"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    ports = yaml.safe_load(done.stdout)["spec"]["containers"][0]["ports"]
    assert {port.get("name"): port["containerPort"] for port in ports} == {"http1": 8080, "h2c": 9000}


def test_prometheus_finds_the_pods_of_the_runtime_and_queries_choose_those_of_the_predictor(
    container: dict[str, Any],
) -> None:
    monitor, service = manifest("pod-monitor.yaml")["spec"], manifest("inference-service.yaml")
    assert monitor["selector"]["matchLabels"] == manifest("serving-runtime.yaml")["spec"]["labels"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    for metric in service["spec"]["predictor"]["autoScaling"]["metrics"]:
        query = metric["external"]["metric"]["query"]
        (namespace, pods), *same = re.findall(r'{namespace="(.*?)",pod=~"(.*?)"}', query)
        assert namespace
        assert same in ([], [(namespace, pods)])
        assert query.count("crossvit_") == 1 + len(same)
        assert re.fullmatch(pods, "flowers-predictor-7d9f8b6c5d-x2x4z")
        assert not re.fullmatch(pods, "flowers-new-predictor-7d9f8b6c5d-x2x4z")
        assert not re.fullmatch(pods, "flowers-predictor-flowers-new-7d9f8b6c5d-x2x4z")


def test_a_canary_is_as_kserve_demands() -> None:
    """The pull request kserve/kserve 5672: Standard mode, unique names, at most all requests, no autoscaling."""
    found = manifest("canary.yaml")
    assert found["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    canaries = found["spec"]["canary"]
    assert len({canary["predictor"]["name"] for canary in canaries}) == len(canaries)
    assert sum(canary["trafficPercent"] for canary in canaries) <= 100
    assert not any({"autoScaling", "maxReplicas"} & canary["predictor"].keys() for canary in canaries)


@pytest.mark.parametrize("models", ["the bundle itself", "a folder with the bundle"], indirect=True)
def test_what_lies_at_mnt_models_is_served_under_the_name_of_the_inference_service(served: Server) -> None:
    body = {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [b64encode(JPEG).decode()]}]}
    with httpx.Client(base_url=served.url, timeout=60) as client:
        assert [model["name"] for model in client.get("/models").json()["models"]] == [NAME]
        assert client.get(f"/v2/models/{NAME}/ready").status_code == 200
        answer = client.post(f"/v2/models/{NAME}/infer", json=body).json()
        assert answer["model_name"] == NAME
        assert client.post("/classify", content=JPEG).json()["model"]["name"] == NAME
        assert f'crossvit_queue_images{{model="{NAME}"}}' in client.get("/metrics").text


@pytest.fixture(scope="session")
def kserve_python(shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return kserve_interpreter(shared)


@pytest.mark.exhaustive
def test_kserves_models_know_every_field_and_miss_a_wrong_one(kserve_python: Path, tmp_path: Path) -> None:
    files = sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "pod-monitor.yaml"})
    kinds = said_by_kserve(kserve_python, "kserve_models.py", *map(str, files))
    assert kinds == [["InferenceService", []]] * 3 + [["ServingRuntime", []]]
    wrong = manifest("inference-service.yaml")
    wrong["spec"]["predictor"]["model"]["storageURI"] = "s3://models"
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    ((_, unknown),) = said_by_kserve(kserve_python, "kserve_models.py", str(tmp_path / "wrong.yaml"))
    assert unknown == ["/spec/predictor/model/storageURI"]


@pytest.mark.exhaustive
def test_kserves_clients_are_answered(served: Server, kserve_python: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    found = said_by_kserve(kserve_python, "kserve_clients.py", served.url, NAME, str(tmp_path / "photo.jpg"))
    best = httpx.post(f"{served.url}/classify", content=JPEG, timeout=60).json()["predictions"][0]["index"]
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, True)
    assert found["rest"] == {"model": NAME, "shape": [1, 1000], "best": best}


@pytest.mark.exhaustive
def test_kserves_grpc_client_is_answered(
    bundle: Path, kserve_python: Path, start_server: StartServer, tmp_path: Path
) -> None:
    port = free_port()
    server = start_server(str(bundle), f"--model-name={NAME}", f"--grpc-port={port}", *ENGINE)
    server.wait_until_ready()
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    found = said_by_kserve(kserve_python, "kserve_clients.py", server.url, NAME, str(tmp_path / "photo.jpg"), str(port))
    assert found["grpc"] == found["rest"]
