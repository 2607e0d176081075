"""What is built and installed: complete, nothing else, and enough to serve without PyTorch or a checkout."""

import json
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from model.spec import VARIANTS
from tests.support import reference_network
from tests.support.hub_stand_in import StandInHub, running_hub
from tests.support.installations import (
    NOT_FOR_SERVING,
    PACKAGES,
    ROOT,
    borrowing_environment,
    build_distributions,
    elsewhere,
    empty_environment,
    files_of_checkout,
    installed_megabytes,
)
from tests.support.servers import running

VARIANT = VARIANTS["crossvit_9_dagger"]
PHOTO = ROOT / "export" / "data" / "photos" / "coffee.jpg"
MOST_MB = 500  # of installed packages, without the bytecode that pip makes of them
START_SECONDS = 400  # the bundle is made first


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that was made of it."""
    return build_distributions(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def of_packages() -> set[str]:
    return {name for name in files_of_checkout() if name.split("/")[0] in PACKAGES}


def test_the_wheel_has_the_files_of_the_packages_and_nothing_else(
    built: tuple[Path, Path], of_packages: set[str]
) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == of_packages
    kinds = {Path(name).suffix for name in names}
    assert {".py", ".cu", ".safetensors", ".jpg", ".webp", ".json"} <= kinds


def test_the_sdist_has_what_the_wheel_is_made_of_and_nothing_else(
    built: tuple[Path, Path], of_packages: set[str]
) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    names = {name for name in names if not name.startswith("crossvit.egg-info/")}
    about = {"LICENSE", "MANIFEST.in", "NOTICE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    assert names == of_packages | about


def test_what_serving_installs_has_no_pytorch_and_nothing_of_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    serving = " ".join(project["dependencies"] + project["optional-dependencies"]["cpu"])
    for package in (*NOT_FOR_SERVING, "onnx-ir", "kornia", "matplotlib", "pytest", "httpx", "psutil"):
        assert package not in serving.replace(">", " ").split()


@pytest.fixture(name="hub", scope="module")
def hub_with_the_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    """A hub with rule-made weights of VARIANT, as large as the official ones."""
    weights = reference_network.checkpoint(tmp_path_factory.mktemp("weights"), VARIANT)
    with running_hub() as hub:
        hub.add(VARIANT.hub_repo, {"model.safetensors": weights})
        yield hub


@pytest.fixture
def use(tmp_path: Path, hub: StandInHub) -> Callable[[Path], None]:
    """Uses the project that is installed in a folder of programs, as somebody without a checkout would."""

    def run(bin_folder: Path) -> None:
        environment = elsewhere(bin_folder, tmp_path / "home", {"HF_ENDPOINT": hub.url})
        crossvit, log = str(bin_folder / "crossvit"), tmp_path / "log"
        command = [crossvit, "serve", VARIANT.name, "--port"]
        with running(command, cwd=tmp_path, environment=environment, log=log) as server:
            server.wait_until_ready(START_SECONDS)
            answer = httpx.post(f"{server.url}/classify", files={"file": PHOTO.read_bytes()}, timeout=60).json()
            assert answer["model"]["name"] == VARIANT.name
            assert "Hugging Face hub" in answer["model"]["weights_source"]
            best = answer["predictions"][0]["label"]
        assert server.process.returncode == 0, server.log_text()
        command = [crossvit, "classify", str(PHOTO), "--bundle", VARIANT.name, "--format", "jsonl"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert best in done.stdout

    return run


def test_an_installed_wheel_serves_a_network_by_its_name_without_pytorch(
    built: tuple[Path, Path], use: Callable[[Path], None], tmp_path: Path
) -> None:
    """The packages are those of the tests, without what is not for serving."""
    bin_folder = borrowing_environment(tmp_path / "environment", built[1])
    command = [str(bin_folder / "crossvit"), "export", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"pip install '{built[1]}[export]'" in done.stderr.replace("\n", "")
    use(bin_folder)


@pytest.mark.exhaustive
def test_an_empty_environment_gets_all_that_serving_needs_and_no_more(
    built: tuple[Path, Path], use: Callable[[Path], None], tmp_path: Path
) -> None:
    bin_folder = empty_environment(tmp_path / "environment", [f"{built[1]}[cpu]"])
    assert installed_megabytes(bin_folder) < MOST_MB
    command = [
        str(bin_folder / "python"),
        "-c",
        "import json, pkgutil; print(json.dumps([m.name for m in pkgutil.iter_modules()]))",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {*NOT_FOR_SERVING} & set(json.loads(done.stdout))
    use(bin_folder)
