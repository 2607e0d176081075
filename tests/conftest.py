"""What several tests need: a bundle of a small network with known weights, and a server that serves it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from export.to_onnx import main as to_onnx
from tests.support import reference_network
from tests.support.reference_network import TINY
from tests.support.servers import Server, StartServer, crossvit_serve


def pytest_configure(config: pytest.Config) -> None:
    """Keep what engines compile for this session, and away from what the developer's own services keep."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # it has the session's folder
    folder = tempfile.TemporaryDirectory(prefix="crossvit-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["XDG_CACHE_HOME"] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and say so."""
    if not _gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


class _Folders(LoadScopeScheduling):
    """Of several processes, one has all that mostly waits, and one all that needs containers; else files stay whole."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = file.rpartition("/")[0]
        if file == "tests/test_transfer.py":  # which is long, and would come last
            return "tests/docker"
        if folder.startswith("tests/app") and not folder.startswith("tests/app/engines"):
            return "tests/app"
        return folder if folder == "tests/docker" else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _Folders(config, log)


def _gpu() -> bool:
    try:
        from cuda.bindings import runtime
    except ImportError:
        return False
    error, count = runtime.cudaGetDeviceCount()
    return bool(error == runtime.cudaError_t.cudaSuccess and count > 0)


Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder of some name once for all processes of this run: the first one to ask fills it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = root / f"shared-{name}"
        with FileLock(root / f"{folder.name}.lock"):
            if not folder.exists():
                partial = tmp_path_factory.mktemp(name)
                fill(partial)
                partial.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_weights(shared: Shared) -> Path:
    """A checkpoint of crossvit_tiny, whose logits are known."""
    return shared("weights", lambda folder: reference_network.checkpoint(folder, TINY)) / f"{TINY.name}.safetensors"


@pytest.fixture(scope="session")
def bundle(tiny_weights: Path, shared: Shared) -> Path:
    """The bundle of `tiny_weights`."""

    def export(folder: Path) -> None:
        out = folder / TINY.name
        assert to_onnx(["--variant", TINY.name, "--weights", str(tiny_weights), "--out", str(out)]) == 0

    return shared("artifacts", export) / TINY.name


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts `crossvit serve` with the given options; all that were started end with the test."""
    with ExitStack() as servers:
        yield lambda *options: servers.enter_context(crossvit_serve(tmp_path / "server.log", *options))


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `bundle` in float32 and batches of up to 4, ready."""
    log = tmp_path_factory.mktemp("server") / "log"
    with crossvit_serve(log, "--bundle", str(bundle), "--precision", "f32", "--max-batch", "4") as started:
        started.wait_until_ready()
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CROSSVIT_"):
            monkeypatch.delenv(name)
