"""What several tests need: a bundle of a small network with known weights, and a server that serves it."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.metadata import distributions
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

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Keep what engines compile for this session, and away from what the developer's own services keep.

    httpx reads all certificate authorities for every client, which takes longer than most requests here; now once.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr("httpx._transports.default.create_ssl_context", cache(httpx.create_ssl_context))
    config.add_cleanup(patch.undo)
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # it has the session's folder
    folder = tempfile.TemporaryDirectory(prefix="crossvit-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["XDG_CACHE_HOME"] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the groups, and skip what needs a GPU where there is none, and say so."""
    order = {group: number for number, group in enumerate(GROUPS)}
    items.sort(key=lambda item: order.get(_group(item.nodeid) or "", len(order)))  # otherwise as collected
    if not _gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


# A group runs in one process, one test after the other; groups run side by side. They start in this order, the
# longest first, before all other files, each of which is a group of its own.
GROUPS = {
    "containers": ["tests/docker/"],
    "timed": [  # these wait more than they compute, and mind other tests that compute beside them
        "tests/app/test_lifecycle.py",
        "tests/app/test_limits.py",
        "tests/app/test_overload.py",
        "tests/app/instances/",
        "tests/app/server/",
        "tests/app/processes/",
    ],
    "transfer": ["tests/test_transfer.py"],  # they need no bundle, which another process exports meanwhile
    "training": ["tests/model/test_train.py"],
    "interface": ["tests/app/api/"],  # they share servers
    "grpc": ["tests/app/grpc_api/"],
    "page": ["tests/app/page/"],  # they share a browser
    "fuzz": ["tests/fuzz/"],
    "plans": ["tests/export/to_trt/"],  # they share graphs
}


class GroupScheduling(LoadScopeScheduling):
    """Gives a group of GROUPS, or a file, to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid) or nodeid.partition("::")[0]


def _group(nodeid: str) -> str | None:
    return next((group for group, paths in GROUPS.items() if nodeid.startswith(tuple(paths))), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False  # as pytest_collection_modifyitems has ordered them
    return GroupScheduling(config, log)


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
def bundle(tiny_weights: Path, shared: Shared, pytestconfig: pytest.Config) -> Path:
    """The bundle of `tiny_weights`; pytest's cache keeps it for later runs, until something that makes it changes."""

    def export(folder: Path) -> None:
        out = folder / TINY.name
        assert to_onnx(["--variant", TINY.name, "--weights", str(tiny_weights), "--out", str(out)]) == 0

    def copy_or_export(folder: Path) -> None:
        provider = getattr(pytestconfig, "cache", None)  # which -p no:cacheprovider leaves out
        if provider is None:
            export(folder)
            return
        cached = provider.mkdir("bundle")
        kept = cached / _exporter_hash()
        with FileLock(f"{cached}.lock"):  # another run may want it too
            if not kept.exists():
                for old in cached.iterdir():
                    shutil.rmtree(old)
                partial = cached / "partial"
                export(partial)
                partial.rename(kept)
            shutil.copytree(kept, folder, dirs_exist_ok=True)

    return shared("artifacts", copy_or_export) / TINY.name


def _exporter_hash() -> str:
    """A hash of everything that makes a bundle: the project's sources, the reference weights, Python and packages."""
    digest = hashlib.sha256(sys.version.encode())
    sources = [
        path
        for folder in ("model", "bundle", "export")
        for kind in ("py", "json")
        for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    for path in (*sorted(sources), Path(reference_network.__file__), Path(__file__)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    for package in sorted(f"{found.name} {found.version}" for found in distributions()):
        digest.update(package.encode())
    return digest.hexdigest()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts `crossvit serve` with the given options; all that were started end with the test."""
    with ExitStack() as servers:
        yield lambda *options: servers.enter_context(crossvit_serve(tmp_path / "server.log", *options))


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `bundle` in float32, with ONNX Runtime and batches of up to 4, ready."""
    log = tmp_path_factory.mktemp("server") / "log"
    engine = ["--engine", "onnxruntime", "--precision", "f32", "--max-batch", "4"]
    with crossvit_serve(log, "--bundle", str(bundle), *engine) as started:
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
