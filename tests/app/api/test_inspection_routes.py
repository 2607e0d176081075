"""POST /explain and POST /embed of a real server."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.api.inspection_routes import prefers_png
from tests.support.pictures import JPEG, encoded, scene
from tests.support.problems import assert_problem
from tests.support.processes import workers
from tests.support.raw_http import connect
from tests.support.reference_network import TINY
from tests.support.servers import Server, StartServer, crossvit_serve
from tests.support.waiting import wait_until

ENGINE = ("--engine", "onnxruntime", "--precision", "f32")
KEY = {"X-API-Key": "api-key-123"}
PNG = {"Accept": "image/png"}


def explained(client: httpx.Client, body: bytes = JPEG, **options: Any) -> dict[str, Any]:
    response = client.post("/explain", content=body, params=options)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_best_class_is_explained_as_classify_names_it(client: httpx.Client) -> None:
    (best,) = client.post("/classify", content=JPEG, params={"top_k": 1}).json()["predictions"]
    answer = explained(client)
    assert answer.keys() == {"explanations", "attention", "picture", "model", "timing_ms", "request_id"}
    (explanation,) = answer["explanations"]
    assert {name: explanation[name] for name in best} == best | {"score": pytest.approx(best["score"], abs=1e-5)}
    for branch, grid in (("small", 20), ("large", 14)):
        found = explanation["contributions"][branch]
        assert np.array(found["grid"]).shape == np.array(answer["attention"][branch]).shape == (grid, grid)
        assert np.sum(found["grid"]) == pytest.approx(found["sum"], abs=1e-4)
        assert -1 <= found["share"] <= 1
        assert 0 < np.sum(answer["attention"][branch]) < 1
    assert (answer["model"]["engine"], answer["model"]["precision"]) == ("onnxruntime", "f32")
    assert answer["model"]["calibrated"] is False
    assert answer["timing_ms"]["total"] >= answer["timing_ms"]["inference"] > 0


def test_a_class_is_named_by_index_wnid_or_label_and_several_by_their_number(client: httpx.Client) -> None:
    three = explained(client, top_k=3)["explanations"]
    assert [each["rank"] for each in three] == [1, 2, 3]
    second = three[1]
    form = client.post("/explain", files={"file": JPEG}, data={"class": str(second["index"]), "resolution": "224"})
    queries = [{"class": second[name]} for name in ("index", "wnid", "label")]
    named = [client.post("/explain", content=JPEG, params=query) for query in queries]
    for answer in (*named, form):
        (alone,) = answer.json()["explanations"]
        assert (alone["index"], alone["rank"]) == (second["index"], 2)
        for branch in ("small", "large"):
            grid, its = (each["contributions"][branch]["grid"] for each in (alone, second))
            np.testing.assert_allclose(grid, its, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"class": "no such"}, "there is no class 'no such'"),
        ({"class": 1000}, "there is no class 1000: the indices are 0 to 999"),
        ({"class": 3, "top_k": 2}, "class names one class, and top_k asks for several"),
        ({"top_k": 6}, "invalid top_k='6': top_k is how many of the best classes to explain, from 1 to 5"),
        ({"top_k": 0}, "top_k"),
        ({"branch": "middle"}, "invalid branch='middle': branch is both, small or large"),
        ({"map": "rollout"}, "map is contributions or attention"),
        ({"opacity": 1.5}, "opacity is from 0 to 1"),
        ({"opacity": "nan"}, "opacity is from 0 to 1"),
        ({"resolution": 225}, "resolution 225 is not served; one of 224, 384, 480"),
        ({"coverage": 0.9}, "unknown parameter 'coverage'; the parameters are model, resolution, class, top_k"),
    ],
)
def test_options_that_cannot_be_are_refused_in_query_and_form(
    client: httpx.Client, options: dict[str, Any], detail: str
) -> None:
    assert_problem(client.post("/explain", content=JPEG, params=options), 422, detail)
    if "coverage" not in options:
        form = client.post("/explain", files={"file": JPEG}, data={name: str(value) for name, value in options.items()})
        assert_problem(form, 422, detail)


@pytest.mark.parametrize("path", ["/explain", "/embed"])
@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b"", 400, "the image is empty"),
        (b"no image", 415, "not a JPEG"),
        (JPEG[:3000], 422, "the JPEG image is incomplete"),
        (encoded(Image.new("1", (9000, 9000))), 413, "over the limit of 50,000,000"),
    ],
)
def test_what_is_no_image_is_refused_as_by_classify(
    client: httpx.Client, path: str, content: bytes, status: int, detail: str
) -> None:
    assert_problem(client.post(path, content=content), status, detail)
    assert_problem(client.post(path, content=content, headers=PNG), status, detail)
    assert client.post("/classify", content=content).status_code == status


def test_the_picture_is_upright_and_the_crop_lies_in_its_pixels(client: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = explained(client, encoded(scene(500, 375), "JPEG", exif=exif.tobytes()))["picture"]
    assert (turned["width"], turned["height"]) == (375, 500)
    assert turned["crop"] == {"left": 23.44, "top": 85.04, "width": 328.12, "height": 328.45}
    whole = explained(client, resolution=384)
    assert whole["picture"]["crop"] == {"left": 62.5, "top": 0.0, "width": 375.0, "height": 375.0}
    assert np.array(whole["attention"]["small"]).shape == (34, 34)


def test_an_image_is_answered_where_one_is_preferred(client: httpx.Client) -> None:
    response = client.post("/explain", content=encoded(scene(3000, 2000), "JPEG"), headers=PNG)
    assert response.status_code == 200
    assert (response.headers["Content-Type"], response.headers["Vary"]) == ("image/png", "Accept")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    with Image.open(BytesIO(response.content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (1024, 683))
    drawn = {
        client.post("/explain", content=JPEG, headers=PNG, params=options).content
        for options in ({}, {"branch": "small"}, {"branch": "large"}, {"map": "attention"}, {"opacity": "0.3"})
    }
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/png", True),
        ("image/*", True),
        ("IMAGE/PNG;q=0.5", True),
        ("text/html, image/png;q=0.9, */*;q=0.8", True),
        ("image/png, application/json;q=0.9", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("image/png, application/json", False),
        ("image/png;q=0.1, application/json;q=0.9", False),
        ("image/png;q=0", False),
        ("image/jpeg", False),
        (",;q=,image", False),
        ("image/png;" * 2000, True),
    ],
)
def test_what_a_client_accepts(accept: str, expected: bool) -> None:
    assert prefers_png(accept) is expected


def test_an_embedding_has_the_numbers_of_both_branches(client: httpx.Client) -> None:
    def embedded(**options: Any) -> dict[str, Any]:
        response = client.post("/embed", content=JPEG, params=options)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    small, large = TINY.dims
    both = embedded()
    assert both.keys() == {"embedding", "dimensions", "model", "timing_ms", "request_id"}
    assert both["dimensions"] == {"small": small, "large": large}
    assert embedded(branch="small")["embedding"] == both["embedding"][:small]
    of_large = embedded(branch="large")
    assert of_large["embedding"] == both["embedding"][small:]
    assert of_large["dimensions"] == {"small": 0, "large": large}
    unit = np.array(embedded(normalize="true")["embedding"])
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(unit * np.linalg.norm(both["embedding"]), both["embedding"], atol=1e-4)
    assert_problem(client.post("/embed", content=JPEG, params={"normalize": "maybe"}), 422, "true or false")
    assert_problem(client.post("/embed", content=JPEG, params={"class": 1}), 422, "unknown parameter 'class'")


def test_nothing_is_started_for_clients_that_classify_only(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE)
    server.wait_until_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        client.post("/classify", content=JPEG)
        assert workers(server.pid, "inspection") == []
        explained(client)
        (process,) = workers(server.pid, "inspection")
        client.post("/embed", content=JPEG)
        os.kill(process, signal.SIGKILL)
        name = f'model="{TINY.name}"'
        ended = f'crossvit_inspection_restarts_total{{{name},reason="ended"}} 1.0'
        wait_until(lambda: ended in client.get("/metrics").text)
        explained(client)
        assert workers(server.pid, "inspection") != [process]
        metrics = client.get("/metrics").text
    assert f'crossvit_inspections_total{{kind="explanation",{name}}} 2.0' in metrics
    assert f'crossvit_inspections_total{{kind="embedding",{name}}} 1.0' in metrics
    assert f"crossvit_inspections_waiting{{{name}}} 0.0" in metrics


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With keys, a rate limit, and room for two images."""
    options = ["--api-keys", "ann:api-key-123,bob:api-key-456,eve:api-key-789", "--rate-limit", "4/hour"]
    options += ["--max-queue", "2", "--max-images", "2", "--engine-seconds", "60"]
    log = tmp_path_factory.mktemp("guarded") / "log"
    with crossvit_serve(log, "--bundle", str(bundle), *ENGINE, *options) as server:
        server.wait_until_ready()
        yield server


@pytest.mark.parametrize("path", ["/explain", "/embed", "/v1/embeddings"])
def test_no_one_without_a_key_gets_in(guarded: Server, path: str) -> None:
    response = httpx.post(f"{guarded.url}{path}", content=JPEG, timeout=60)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert httpx.post(f"{guarded.url}{path}", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_an_image_counts_towards_the_rate_on_every_route(guarded: Server) -> None:
    with httpx.Client(base_url=guarded.url, headers=KEY, timeout=60) as client:
        for path in ("/explain", "/embed", "/explain", "/classify"):
            assert client.post(path, content=JPEG).status_code == 200
        for path in ("/explain", "/embed"):
            refused = client.post(path, content=JPEG)
            assert_problem(refused, 429, "the limit of 4 images per hour")
            assert int(refused.headers["Retry-After"]) > 1000


@pytest.fixture(scope="module")
def busy(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Room for two images, and an inspection process that runs and may be stopped for a while."""
    options = ["--max-queue", "2", "--max-images", "2", "--engine-seconds", "60"]
    log = tmp_path_factory.mktemp("busy") / "log"
    with crossvit_serve(log, "--bundle", str(bundle), *ENGINE, *options) as server:
        server.wait_until_ready()
        assert httpx.post(f"{server.url}/embed", content=JPEG, timeout=60).status_code == 200
        yield server


def waiting(server: Server) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith("crossvit_inspections_waiting")).split()[1])


def test_a_full_queue_refuses_and_classify_goes_on(busy: Server) -> None:
    (process,) = workers(busy.pid, "inspection")
    with ThreadPoolExecutor(3) as pool, httpx.Client(base_url=busy.url, timeout=60) as client:
        os.kill(process, signal.SIGSTOP)
        try:
            first = pool.submit(client.post, "/explain", content=JPEG)
            wait_until(lambda: "crossvit_inspections_waiting" in client.get("/metrics").text and waiting(busy) == 0)
            time.sleep(0.3)
            others = [pool.submit(client.post, path, content=JPEG) for path in ("/explain", "/embed")]
            wait_until(lambda: waiting(busy) == 2)
            for path in ("/explain", "/embed"):
                refused = client.post(path, content=JPEG)
                assert_problem(refused, 429, "the queue is full: 2 images wait, 2 may")
                assert int(refused.headers["Retry-After"]) >= 1
            assert client.post("/classify", content=JPEG).status_code == 200
            late = client.post("/explain", content=JPEG, headers={"X-Request-Timeout-Ms": "1"})
            assert late.status_code in (429, 504)
        finally:
            os.kill(process, signal.SIGCONT)
        assert [answer.result().status_code for answer in (first, *others)] == [200, 200, 200]
    assert waiting(busy) == 0


def test_a_deadline_is_kept(busy: Server) -> None:
    (process,) = workers(busy.pid, "inspection")
    os.kill(process, signal.SIGSTOP)
    try:
        late = httpx.post(f"{busy.url}/explain", content=JPEG, headers={"X-Request-Timeout-Ms": "300"}, timeout=30)
    finally:
        os.kill(process, signal.SIGCONT)
    assert_problem(late, 504, "deadline")
    assert waiting(busy) == 0


def test_a_client_that_leaves_gives_its_place_back(busy: Server) -> None:
    (process,) = workers(busy.pid, "inspection")
    os.kill(process, signal.SIGSTOP)
    try:
        request = b"POST /explain HTTP/1.1\r\nHost: service\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
        connections = [connect(busy) for _ in range(3)]
        for connection in connections:
            connection.sendall(request + JPEG)
            time.sleep(0.3)
        wait_until(lambda: waiting(busy) == 2)
        for connection in connections:
            connection.close()
        wait_until(lambda: waiting(busy) == 0)
    finally:
        os.kill(process, signal.SIGCONT)
    assert httpx.post(f"{busy.url}/explain", content=JPEG, timeout=30).status_code == 200


def test_a_bundle_without_the_graph_says_how_to_make_it(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    older = Path(shutil.copytree(bundle, tmp_path / "older"))
    manifest = json.loads((older / "manifest.json").read_text())
    del manifest["files"]["inspection.onnx"]
    (older / "manifest.json").write_text(json.dumps(manifest))
    (older / "inspection.onnx").unlink()
    server = start_server("--bundle", str(older), *ENGINE)
    server.wait_until_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for path in ("/explain", "/embed"):
            refused = client.post(path, content=JPEG)
            assert_problem(refused, 422, "its bundle is of an earlier version; make it again with crossvit pull")
            assert refused.json()["reason"] == "NoInspection"
        assert client.post("/classify", content=JPEG).status_code == 200
        assert client.get("/models").json()["models"][0]["explains"] is False
        outputs = client.get("/v2/models/older").json()["outputs"]
        assert [output["name"] for output in outputs] == ["logits", "logits_small", "logits_large"]


def test_models_say_whether_they_explain(client: httpx.Client) -> None:
    assert client.get("/models").json()["models"][0]["explains"] is True
