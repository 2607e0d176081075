"""The service that is fuzzed."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fuzz.cases import JPEG
from tests.support.processes import resident_mb
from tests.support.servers import Server, crossvit_serve


@pytest.fixture(scope="session")
def target(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"header-seconds": 2, "body-seconds": 2, "keep-alive-seconds": 2, "decoders": 2, "max-body-bytes": 1000000}
    options = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
    log = tmp_path_factory.mktemp("target") / "log"
    with crossvit_serve(log, "--bundle", str(bundle), "--engine", "onnxruntime", *options) as server:
        server.wait_until_ready()
        # Its process takes memory from now on.
        explained = httpx.post(f"{server.url}/explain", content=JPEG, timeout=60)
        assert explained.status_code == 200, explained.text
        yield server


@pytest.fixture(scope="session")
def client(target: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=target.url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def still_right(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the server was sent, the next request is right, nothing was a defect, and memory did not grow."""
    if "target" not in request.fixturenames:
        yield
        return
    server: Server = request.getfixturevalue("target")
    right = httpx.post(f"{server.url}/classify", files={"file": JPEG}, timeout=30).json()["predictions"]
    before = resident_mb(server.process.pid)
    yield
    answer = httpx.post(f"{server.url}/classify", files={"file": JPEG}, timeout=30)
    assert answer.json()["predictions"] == right
    log = server.log_text()
    assert "Traceback" not in log
    assert '"status": 5' not in log
    assert resident_mb(server.process.pid) < before + 80
