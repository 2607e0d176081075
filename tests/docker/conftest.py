"""The images, and the compose file brought up from a copy: with names, ports and a network of its own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.containers import BASE, ROOT, Compose, available, build, engine
from tests.support.reference_network import TINY
from tests.support.servers import free_port
from tests.support.service_checks import GRACE_SECONDS, MAX_QUEUE, wait_until_ready

PROMETHEUS = "docker.io/prom/prometheus"
SETTINGS = f"""
VARIANT={TINY.name}
WEIGHTS=/weights/{TINY.name}.safetensors
CPUS=1
CROSSVIT_PRECISION=f32
MEMORY=1g
CROSSVIT_MAX_QUEUE={MAX_QUEUE}
CROSSVIT_MAX_IMAGES=4
CROSSVIT_GRACE_SECONDS={GRACE_SECONDS}
"""


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """Names of the images, by those that the compose file has."""
    if not engine():
        pytest.skip(f"neither docker nor podman runs {BASE} here")
    return {"crossvit-cpu": build("cpu")}


def _prometheus() -> str:
    """The image of Prometheus that the compose file names; Debian's package stands in where it cannot be had."""
    compose = (ROOT / "docker-compose.yml").read_text()
    (named,) = (line.split()[1] for line in compose.splitlines() if PROMETHEUS in line)
    return named if available(named) else build("prometheus")


@pytest.fixture(scope="session")
def project(images: dict[str, str], tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `docker compose` reads, and a checkpoint to serve."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "docker", folder / "docker")
    (folder / "weights").mkdir()
    Path(shutil.copy(tiny_weights, folder / "weights")).chmod(0o644)
    text = (ROOT / "docker-compose.yml").read_text()
    for name, other in images.items():
        text = text.replace(f"image: {name}", f"image: {other}")  # and of the one for 8 bits the beginning
    text = "\n".join(f"    image: {_prometheus()}" if PROMETHEUS in line else line for line in text.splitlines())
    # The service needs no shell: it has none here.
    shells = "".join(f"\n      - /dev/null:/usr/bin/{shell}:ro" for shell in ("dash", "bash"))
    text = text.replace("\n      - cache:/cache", f"\n      - cache:/cache{shells}")
    (folder / "docker-compose.yml").write_text(text)
    (folder / ".env").write_text(SETTINGS)
    scraping = folder / "docker" / "prometheus" / "prometheus.yml"
    scraping.write_text(scraping.read_text().replace("15s", "1s"))
    return folder


@pytest.fixture(scope="session")
def service(project: Path) -> Iterator[Compose]:
    """The compose file brought up: the service, ready, watched by Prometheus. Nothing of it is left at the end."""
    ports = {"PORT": str(free_port()), "PROMETHEUS_PORT": str(free_port())}
    compose = Compose(project, f"crossvit-test-{os.getpid()}", ports)
    try:
        compose("--profile", "monitoring", "up", "--detach", "api", "prometheus", seconds=300)
        wait_until_ready(compose.url, 180)
        yield compose
    finally:
        compose("--profile", "monitoring", "down", "--volumes")
