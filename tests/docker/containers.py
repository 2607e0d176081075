"""A container engine and its compose, whichever this machine has: Docker, or Podman with podman-compose.

Podman is told what a machine without a Docker daemon needs: to build in a chroot, in Docker's format (which has health
checks), with this machine's way to package indexes.
"""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.11-slim-bookworm"
PREFIX = "localhost/crossvit-test-"  # whoever works here may have images of their own
GPU = "gpu-without-nvidia"
WITHOUT_NVIDIA = "COPY docker/locks/cpu.txt .\nRUN pip install --no-deps --require-hashes -r cpu.txt"
TARGETS = {  # by the images' names
    "cpu": ("cpu.Dockerfile", "serve"),
    GPU: ("gpu.Dockerfile", "serve"),
    "prometheus": ("../tests/docker/prometheus.Dockerfile", "prometheus"),
}


@functools.cache
def engine() -> str:
    """docker or podman, whichever can run the images' base here; "" if neither can."""
    for name, compose in (("docker", ["docker", "compose", "version"]), ("podman", ["podman-compose", "version"])):
        probe = [name, "run", "--rm", BASE, "python3", "-c", "print('runs')"]
        if shutil.which(name) and _works(compose) and _works(probe):
            return name
    return ""


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run(*arguments: str, seconds: float = 60) -> str:
    """What the engine prints."""
    return _output([engine(), *arguments], ROOT, {}, seconds)


def build(name: str) -> str:
    """Build the image of this name in TARGETS, if it is not there from the same; its tag."""
    file, target = TARGETS[name]
    text = (ROOT / "docker" / file).read_text()
    if name == GPU:
        # NVIDIA's packages are gigabytes, and TensorRT comes from another index: the rest can be built anywhere. The
        # ONNX Runtime for CPUs stands in for that for GPUs.
        gpu_stage = re.compile(r"(?<=^FROM common AS gpu\n).*?(?=\n\n)", re.MULTILINE | re.DOTALL)
        text, count = gpu_stage.subn(WITHOUT_NVIDIA, text)
        assert count == 1
    with tempfile.NamedTemporaryFile("w", suffix=".Dockerfile") as written:
        written.write(text)
        written.flush()
        command = [engine(), "build", *_build_options(), "--file", written.name, "--target", target]
        _output([*command, "--tag", PREFIX + name, "."], ROOT, {}, 900)
    return PREFIX + name


def available(image: str) -> bool:
    """Whether `image` is here, or can be pulled."""
    return _works([engine(), "image", "inspect", image]) or _works([engine(), "pull", "--quiet", image])


def inspect_image(image: str, what: str) -> str:
    """Of an image, a field in Go's notation."""
    return run("image", "inspect", "--format", f"{{{{{what}}}}}", image).strip()


def size_mb(image: str) -> float:
    return int(inspect_image(image, ".Size")) / 1e6


class Compose:
    """The compose file in `folder`, under a project name of its own, with settings in `environment`."""

    def __init__(self, folder: Path, project: str, environment: dict[str, str]) -> None:
        self._folder = folder
        self._project = project
        self.environment = environment

    def beside(self, suffix: str, environment: dict[str, str]) -> "Compose":
        """Another project of the same file."""
        return Compose(self._folder, f"{self._project}-{suffix}", self.environment | environment)

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"http://127.0.0.1:{self.environment['PORT']}"

    def __call__(self, *arguments: str, seconds: float = 120) -> str:
        """`docker compose ARGUMENTS`; what it prints."""
        command = ["docker", "compose"] if engine() == "docker" else ["podman-compose"]
        return _output([*command, "--project-name", self._project, *arguments], self._folder, self.environment, seconds)

    def container(self, service: str) -> str:
        """The id of the container of `service`, running or not."""
        labels = {"project": self._project, "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return run("ps", "--all", "--quiet", *filters).split()[0]

    def inspect(self, service: str, what: str) -> str:
        """Of its container, a field in Go's notation."""
        return run("inspect", "--format", f"{{{{{what}}}}}", self.container(service)).strip()

    def execute(self, service: str, *command: str) -> str:
        return run("exec", self.container(service), *command).strip()

    def logs(self, service: str) -> str:
        command = [engine(), "logs", self.container(service)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout + done.stderr


def _build_options() -> list[str]:
    if engine() == "docker":
        return []
    options = ["--isolation", "chroot", "--network", "host", "--format", "docker"]
    return [*options, "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]


def _output(command: list[str], folder: Path, environment: dict[str, str], seconds: float) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


if __name__ == "__main__":  # before the tests, as CI does while the machine is not busy yet
    for name in TARGETS:
        print(build(name), flush=True)
