"""Two bundles under one name: a real server, asked by chance and by the header that forces the choice."""

import base64
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.changed_bundles import change_source
from tests.support.pictures import JPEG
from tests.support.servers import Server, StartServer, crossvit_serve
from tests.support.waiting import wait_until

ENGINE = ["--engine", "onnxruntime", "--precision", "f32", "--admin-keys", "boss-of-all"]
ADMIN = {"Authorization": "Bearer boss-of-all"}


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles `stable/net` and `next/net`, which name other sources."""
    folder = tmp_path_factory.mktemp("canary")
    for version in ("stable", "next"):
        shutil.copytree(bundle, folder / version / "net")
        change_source(folder / version / "net", version)
    return folder


def options(folder: Path, *more: str) -> list[str]:
    return ["--bundle", str(folder / "stable" / "net"), "--canary", f"net={folder / 'next' / 'net'}", *ENGINE, *more]


@pytest.fixture(scope="module")
def canaried(folder: Path) -> Iterator[Server]:
    with crossvit_serve(folder / "log", *options(folder, "--canary-percent", "50")) as server:
        server.wait_until_ready()
        wait_until(lambda: ready(server) == {"net": 1, "net@canary": 1})
        yield server


def ready(server: Server) -> dict[str, int]:
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r'crossvit_model_ready\{model="([^"]+)"\} (\d)', text)
    return {model: int(value) for model, value in found}


def requests(server: Server) -> Counter[str]:
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r'crossvit_canary_requests_total\{model="net",revision="(\w+)"\} ([\d.]+)', text)
    return Counter({revision: int(float(value)) for revision, value in found})


def post(server: Server, path: str = "/classify", **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=JPEG, headers=headers, timeout=60)


@pytest.mark.parametrize(
    ("header", "revision", "source"), [("always", "canary", "next"), ("never", "stable", "stable")]
)
def test_the_header_forces_the_choice_and_answers_name_the_bundle(
    canaried: Server, header: str, revision: str, source: str
) -> None:
    before = requests(canaried)
    for path in ("/classify", "/classify?model=net", "/explain"):
        response = post(canaried, path, **{"X-Canary": header})
        assert response.status_code == 200, response.text
        assert response.headers["X-Model-Revision"] == revision
        assert response.json()["model"]["weights_source"] == source
    assert requests(canaried) - before == Counter({revision: 3})
    form = httpx.post(
        f"{canaried.url}/classify", files={"file": JPEG}, data={"model": "net"}, headers={"X-Canary": header}
    )
    assert form.headers["X-Model-Revision"] == revision
    assert form.json()["model"]["weights_source"] == source
    assert requests(canaried) - before == Counter({revision: 4})  # counted once, though it is looked for twice


def test_the_other_protocols_choose_too(canaried: Server) -> None:
    tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(JPEG).decode()]}
    for path, body in (
        ("/v2/models/net/infer", {"inputs": [tensor]}),
        ("/v1/models/net:predict", {"instances": tensor["data"]}),
        ("/v1/embeddings", {"input": f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"}),
        ("/", {"inputs": base64.b64encode(JPEG).decode()}),
    ):
        response = httpx.post(f"{canaried.url}{path}", json=body, headers={"X-Canary": "always"}, timeout=60)
        assert response.status_code == 200, response.text
        assert response.headers["X-Model-Revision"] == "canary", path


def test_the_weight_decides_for_the_others(canaried: Server) -> None:
    before = requests(canaried)
    found = Counter(post(canaried).headers["X-Model-Revision"] for _ in range(40))
    assert set(found) == {"stable", "canary"}  # by chance not once in 5e11
    assert requests(canaried) - before == found


def test_a_reload_reads_the_canary_too_and_a_broken_one_changes_nothing(canaried: Server, folder: Path) -> None:
    def reload() -> list[str]:
        faults: list[str] = httpx.post(f"{canaried.url}/admin/reload", headers=ADMIN, timeout=120).json()["faults"]
        return faults

    change_source(folder / "next" / "net", "third")
    assert reload() == []
    assert post(canaried, **{"X-Canary": "always"}).json()["model"]["weights_source"] == "third"
    (folder / "next" / "net" / "labels.json").write_text("[]")
    (fault,) = reload()
    assert "labels.json" in fault
    assert fault.startswith("net@canary cannot be loaded")
    assert post(canaried, **{"X-Canary": "always"}).json()["model"]["weights_source"] == "third"
    assert httpx.get(f"{canaried.url}/readyz").status_code == 200


def test_while_the_canary_cannot_be_loaded_the_stable_bundle_answers_all(
    folder: Path, bundle: Path, start_server: StartServer
) -> None:
    broken = Path(shutil.copytree(bundle, folder / "broken" / "net"))
    (broken / "labels.json").write_text("[]")
    server = start_server("--bundle", str(folder / "stable" / "net"), "--canary", f"net={broken}", *ENGINE)
    server.wait_until_ready()
    response = post(server, **{"X-Canary": "always"})
    assert (response.status_code, response.headers["X-Model-Revision"]) == (200, "stable")
    wait_until(lambda: "net@canary cannot be loaded" in server.log_text())
    assert "labels.json" in server.log_text()
    assert ready(server) == {"net": 1, "net@canary": 0}


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        ("net", "it must be NAME=PATH"),
        ("other=/nowhere", "there is no model 'other'; the models are net"),
        ("net=/nowhere", "no bundle at /nowhere"),
        ("net=hf:owner/net", "crossvit pull hf:owner/net --out FOLDER, and set --canary net=FOLDER"),
    ],
)
def test_a_canary_that_cannot_be_is_refused_at_the_start(
    folder: Path, start_server: StartServer, canary: str, message: str
) -> None:
    server = start_server("--bundle", str(folder / "stable" / "net"), "--canary", canary, *ENGINE)
    assert server.process.wait(60) == 2
    assert message in server.log_text()
