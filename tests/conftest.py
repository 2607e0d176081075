"""What several tests need: a bundle of a small network with known weights, and a server that serves it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from export.to_onnx import main as to_onnx
from model.spec import VARIANTS
from tests import rule

TINY = VARIANTS["crossvit_tiny"]


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
    return shared("weights", lambda folder: rule.checkpoint(folder, TINY)) / f"{TINY.name}.safetensors"


@pytest.fixture(scope="session")
def bundle(tiny_weights: Path, shared: Shared) -> Path:
    """The bundle of `tiny_weights`."""

    def export(folder: Path) -> None:
        out = folder / TINY.name
        assert to_onnx(["--variant", TINY.name, "--weights", str(tiny_weights), "--out", str(out)]) == 0

    return shared("artifacts", export) / TINY.name


@dataclass
class Server:
    """A running `crossvit serve`."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def wait_until_ready(self, seconds: float = 60) -> None:
        self._wait_for("/readyz", seconds)

    def wait_until_alive(self) -> None:
        """Until it answers; it may go on loading."""
        self._wait_for("/livez", 20)

    def _wait_for(self, path: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}{path}").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.05)
        raise TimeoutError(self.log.read_text())


StartServer = Callable[..., Server]


@contextmanager
def running(log: Path, *options: str, port: int | None = None) -> Iterator[Server]:
    port = port or free_port()
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--grace-seconds", "0", *options]
    environment = os.environ | {"CROSSVIT_DECODERS": "1"}  # which start sooner than several
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True)
    try:
        yield Server(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts `crossvit serve` with the given options; all that were started end with the test."""
    with ExitStack() as servers:
        yield lambda *options: servers.enter_context(running(tmp_path / "server.log", *options))


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `bundle` in float32 and batches of up to 4, ready."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running(log, "--bundle", str(bundle), "--precision", "f32", "--max-batch", "4") as started:
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
