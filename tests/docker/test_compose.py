"""`docker compose up`, from a checkpoint to a stop; the tests build on each other in the order in which they stand."""

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
import yaml

from tests.docker.containers import BASE, GPU, Compose, build, inspect_image, run, size_mb
from tests.support.reference_network import TINY
from tests.support.service_checks import (
    PHOTOS,
    check_bad_images,
    check_overload,
    check_photographs,
    check_stop,
    wait_until_ready,
)
from tests.support.waiting import wait_until

MOST_MB = 550  # over the base image
LIMIT = 1 << 30  # bytes, MEMORY in conftest.py

MODULES = "import pkgutil; print(*(module.name for module in pkgutil.iter_modules()))"
INSIDE = (Path(__file__).parent / "inside.py").read_text()


def test_the_image_is_small_and_has_neither_pytorch_nor_pip(images: dict[str, str]) -> None:
    serve = images["crossvit-cpu"]
    assert size_mb(serve) - size_mb(BASE) < MOST_MB
    listing = run("run", "--rm", "--entrypoint", "python", serve, "-c", MODULES)
    names = set(listing.split())
    assert {"app", "bundle", "export", "model", "onnx", "openvino", "onnxruntime"} <= names
    assert not {"torch", "onnxscript", "onnx_ir", "pip", "setuptools", "nncf"} & names
    assert inspect_image(serve, ".Config.User") == "10001:10001"
    labels = json.loads(inspect_image(serve, "json .Config.Labels"))
    assert {"title", "licenses", "version", "revision"} <= {name.rpartition(".")[2] for name in labels}


@pytest.fixture(scope="module")
def gpu_image(images: dict[str, str]) -> str:  # noqa: ARG001  # else there is nothing to build with
    return build(GPU)


HARDENED = [
    *("--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),  # noqa: S108
    *("--entrypoint", "python"),
]


def test_the_image_for_gpus_has_all_but_nvidias_packages(gpu_image: str) -> None:
    run(
        "run",
        *HARDENED,
        gpu_image,
        "-c",
        "import app, export, fastapi, onnx, onnxscript, opentelemetry.sdk, wheel_stub",
    )
    assert not {"torch", "nncf"} & set(run("run", *HARDENED, gpu_image, "-c", MODULES).split())
    assert inspect_image(gpu_image, ".Config.User") == "10001:10001"
    assert "NVIDIA_REQUIRE_CUDA=cuda>=13.0" in json.loads(inspect_image(gpu_image, "json .Config.Env"))


def test_engines_are_planned_in_it_without_rights(gpu_image: str, readable: Path) -> None:
    options = ["--variant", TINY.name, "--bundle", f"/bundles/{TINY.name}", "--dry-run"]
    mounted = [*HARDENED, "--volume", f"{readable}:/bundles:ro"]
    said = run("run", *mounted, gpu_image, "-m", "export.to_trt", *options)
    assert "nothing can be built here: TensorRT is not installed" in said
    assert "480: images of side 480" in said
    assert "dry run: nothing was built or written" in said


@pytest.mark.parametrize("resolutions", [None, "224 480"])
def test_without_engines_the_service_on_the_gpu_starts_all_the_same(
    gpu_image: str, readable: Path, project: Path, resolutions: str | None
) -> None:
    compose = Compose(project, "crossvit-test-gpu", {"RESOLUTIONS": resolutions} if resolutions else {})
    services = yaml.safe_load(compose("--profile", "gpu", "config"))["services"]
    assert "build-engines" in services["api-gpu"]["depends_on"]
    (program, *arguments), command = (services["build-engines"][name] for name in ("entrypoint", "command"))
    assert program == HARDENED[-1]
    mounted = [*HARDENED, "--volume", f"{readable}:/bundles:ro"]
    assert "export.to_trt ended with 1" in run("run", *mounted, gpu_image, *arguments, *command)  # which ends with 0
    planned = re.findall(r"^(\d+): ", run("run", *mounted, gpu_image, *arguments, *command, "--dry-run"), re.MULTILINE)
    assert planned == (resolutions.split() if resolutions else ["224"])


@pytest.fixture(scope="module")
def readable(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles that another user may read."""
    folder = tmp_path_factory.mktemp("bundles")
    shutil.copytree(bundle, folder / bundle.name)
    for each in (folder, folder / bundle.name):
        each.chmod(0o755)
    return folder


def test_compose_up_makes_the_bundle_and_serves_it(service: Compose, bundle: Path) -> None:
    check_photographs(service.url, bundle)
    check_bad_images(service.url)


def test_it_runs_without_rights_or_a_shell(service: Compose) -> None:
    found = json.loads(service.execute("api", "python", "-c", INSIDE))
    assert (found["user"], found["capabilities"], found["no_new_privileges"]) == (10001, 0, 1)
    assert found["writable"] == ["/cache"]
    with pytest.raises(AssertionError):
        service.execute("api", "sh", "-c", "true")


def test_the_health_check_sees_readiness(service: Compose) -> None:
    healthy = json.loads(service.inspect("api", "json .Config.Healthcheck"))["Test"]
    assert healthy[0] == "CMD"
    assert '"ready"' in service.execute("api", *healthy[1:])
    with pytest.raises(AssertionError, match="no answer"):  # where nothing listens
        run("run", "--rm", "--entrypoint", healthy[1], service.inspect("api", ".Config.Image"), *healthy[2:])


def test_overload_is_refused_within_the_limits_of_the_container(service: Compose) -> None:
    check_overload(service.url)
    found = json.loads(service.execute("api", "python", "-c", INSIDE))
    assert found["usable_cpus"] == 1
    assert found["roles"] == ["decoder", "engine"]
    *others, busiest = found["engine_ticks"]
    assert busiest > 0.6 * (busiest + sum(others))  # one thread does the work, as one CPU may be used
    assert int(service.inspect("api", ".HostConfig.Memory")) == LIMIT
    assert found["peak_memory"] < LIMIT
    assert service.inspect("api", ".State.OOMKilled") == "false"


def test_a_bundle_that_was_pulled_meanwhile_is_loaded_by_reload(service: Compose) -> None:
    assert "is up to date" in service("run", "--rm", "pull")
    service.execute("api", "python", "-c", "import os, signal; os.kill(1, signal.SIGHUP)")
    wait_until(lambda: "reading the models on disk again" in service.logs("api"))
    wait_until_ready(service.url)


def test_a_stop_loses_nothing_and_the_next_start_is_warm(service: Compose) -> None:
    tried = service.logs("api").count(": trying ")
    assert tried > 0
    check_stop(service.url, lambda: service("stop", "api"))
    assert service.inspect("api", ".State.ExitCode") == "0"
    service("start", "api")
    wait_until_ready(service.url)
    assert service.logs("api").count(": trying ") == tried  # nothing was compiled or tried again
    assert httpx.post(f"{service.url}/classify", files={"file": PHOTOS[0].read_bytes()}, timeout=30).status_code == 200


def test_keys_are_secrets(service: Compose, project: Path) -> None:
    (project / "keys.txt").write_text("someone:long-enough-a-key\n")
    service.environment["API_KEYS_FILE"] = "./keys.txt"
    try:
        service("up", "--detach", "--force-recreate", "--no-deps", "api")
        wait_until_ready(service.url)
        body = {"file": PHOTOS[0].read_bytes()}
        headers = {"Authorization": "Bearer long-enough-a-key"}
        assert httpx.post(f"{service.url}/classify", files=body).status_code == 401
        assert httpx.post(f"{service.url}/classify", files=body, headers=headers, timeout=30).status_code == 200
        assert "long-enough" not in service.inspect("api", "json .Config.Env")
    finally:
        del service.environment["API_KEYS_FILE"]
        service("up", "--detach", "--force-recreate", "--no-deps", "api")
        wait_until_ready(service.url)
