"""What the images are made of, without making them."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.containers import ROOT

LOCKS = sorted((ROOT / "docker" / "locks").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = {
    "cpu.txt": ["cpu", "otel"],
    "cpu-quantize.txt": ["cpu", "otel", "quantize"],
    "gpu-common.txt": ["otel", "half-precision"],
    "gpu.txt": ["otel", "gpu", "nvimgcodec"],
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(match[0]) for text in requirements if (match := re.match(r"[\w.-]+", text))}


def locked(lock: Path) -> dict[str, str]:
    """The versions in a lock."""
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_has_the_versions_of_the_constraints_and_hashes(lock: Path) -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pins = {normal(name): version for name, version in pinned.items()}
    elsewhere = re.findall(r"^([\w.-]+)==\S+ ; .*(?:win32|emscripten)", lock.read_text(), re.MULTILINE)
    for name, version in locked(lock).items():
        assert pins.get(name) == version or name in elsewhere
    requirements = re.split(r"\n(?=\w)", lock.read_text().strip())
    assert all("--hash=sha256:" in requirement for requirement in requirements)


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.name in EXTRAS], ids=lambda lock: lock.name)
def test_a_lock_has_all_that_the_project_needs_there_and_no_pytorch(lock: Path) -> None:
    project = PROJECT["project"]
    wanted = names(project["dependencies"])
    for extra in EXTRAS[lock.name]:
        wanted |= names(project["optional-dependencies"][extra])
    assert wanted <= locked(lock).keys()
    assert "torch" not in locked(lock)


def test_compose_names_targets_and_files_that_are_there() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    targets = re.findall(r"^FROM .* AS ([\w-]+)$", (ROOT / "docker" / "cpu.Dockerfile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^ +target: (\S+)$", compose, re.MULTILINE)) == {"serve", "serve${QUANTIZE:+-quantize}"}
    assert {"serve", "serve-quantize"} <= set(targets)
    for path in re.findall(r"^ +(?:- |dockerfile: )\.?/?(docker/[\w./-]+)", compose, re.MULTILINE):
        assert (ROOT / path).exists()


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def test_compose_up_serves_on_the_cpu_and_each_other_service_has_a_profile(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "profiles" not in service} == {"pull", "api"}
    gpu = {name for name, service in services.items() if service.get("profiles") == ["gpu"]}
    assert gpu == {"pull-gpu", "build-engines", "api-gpu"}
    # `up api-gpu` starts what it depends on: nothing of the CPU's.
    assert {needed for name in gpu for needed in services[name].get("depends_on", ())} <= gpu


def test_a_bundle_for_a_gpu_has_half_precision_instead_of_8_bits_and_a_volume_of_its_own(
    services: dict[str, Any],
) -> None:
    cpu, gpu = (set(services[name]["command"]) for name in ("pull", "pull-gpu"))
    assert (cpu - gpu, gpu - cpu) == ({"--quantize=${QUANTIZE:-}"}, {"--precision=fp16"})
    places = {
        name: service["volumes"][0].partition(":/")[0] for name, service in services.items() if "volumes" in service
    }
    assert places["pull"] == places["api"]
    assert places["pull-gpu"] == places["build-engines"] == places["api-gpu"] != places["pull"]


def test_the_image_for_gpus_says_what_driver_it_needs_and_keeps_what_the_driver_compiles() -> None:
    file = (ROOT / "docker" / "gpu.Dockerfile").read_text()
    cuda = locked(ROOT / "docker" / "locks" / "gpu.txt")["nvidia-cuda-runtime"].split(".")
    assert f'NVIDIA_REQUIRE_CUDA="cuda>={cuda[0]}.{cuda[1]}"' in file
    assert re.findall(r"CUDA_CACHE_PATH=(\S+)/nv", file) == re.findall(r"XDG_CACHE_HOME=(\S+)", file)


def test_the_guide_lists_every_variable_of_the_compose_file_with_its_default() -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    variables = dict(re.findall(r"\$\{([A-Z_]+)(?::?[-+]([^${}]*))?", compose))
    assert {"VARIANT", "PORT", "MEMORY"} <= variables.keys()
    for name, default in variables.items():
        rows = [line for line in guide.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert rows, name
        assert default.startswith(("/", "docker/")) or default in rows[0]
