"""Dialects of other services: a real server, asked by the clients that these services have, and as their users ask."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.support.pictures import JPEG, encoded, scene
from tests.support.reference_network import TINY
from tests.support.servers import Server, crossvit_serve

PNG = encoded(scene(300, 280))
KEY = "api-key-123"
ALL_CLASSIFYING = [
    "/",
    "/pipeline/image-classification",
    f"/models/{TINY.name}",
    f"/predictions/{TINY.name}",
    f"/predictions/{TINY.name}/1.0",
]


def in_base64(body: bytes) -> str:
    return base64.b64encode(body).decode()


@pytest.fixture(scope="module")
def closed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a key, and a rate of four images an hour."""
    options = ["--engine", "onnxruntime", "--precision", "f32", "--api-keys", KEY, "--rate-limit", "4/hour"]
    with crossvit_serve(tmp_path_factory.mktemp("closed") / "log", "--bundle", str(bundle), *options) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture
def classified(client: httpx.Client) -> dict[str, float]:
    """Scores by label of JPEG, by POST /classify."""
    answer = client.post("/classify", content=JPEG).json()
    return {one["label"]: one["score"] for one in answer["predictions"]}


def pixels(client: httpx.Client) -> list[Any]:
    """Of an image at the model's default resolution."""
    side = client.get("/models").json()["models"][0]["default_resolution"]
    rows: list[Any] = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8).tolist()
    return rows


# Hugging Face


@pytest.mark.parametrize("path", ["", "/", f"/models/{TINY.name}", "/pipeline/image-classification"])
def test_huggingfaces_own_client_classifies(server: Server, classified: dict[str, float], path: str) -> None:
    found = InferenceClient(f"{server.url}{path}").image_classification(JPEG)
    assert {one.label: one.score for one in found} == pytest.approx(classified, abs=1e-6)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_huggingfaces_own_client_sends_files_and_parameters(
    server: Server, classified: dict[str, float], tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    client = InferenceClient(server.url)
    found = client.image_classification(tmp_path / "a.jpg", top_k=2)
    assert {one.label: one.score for one in found} == pytest.approx(dict(list(classified.items())[:2]), abs=1e-6)
    named = client.image_classification(JPEG, top_k=2, function_to_apply="softmax")
    assert [one.score for one in named] == pytest.approx([one.score for one in found], abs=1e-6)
    logits = client.image_classification(JPEG, function_to_apply="none")
    sigmoids = client.image_classification(JPEG, function_to_apply="sigmoid")
    assert [one.label for one in logits] == [one.label for one in sigmoids] == list(classified)
    assert [one.score for one in sigmoids] == pytest.approx([1 / (1 + np.exp(-one.score)) for one in logits], abs=1e-6)


def test_none_gives_the_logits_of_v2(client: httpx.Client) -> None:
    request = {"inputs": in_base64(JPEG), "parameters": {"function_to_apply": "none", "top_k": 1000}}
    found = client.post("/", json=request).json()
    tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [in_base64(JPEG)]}
    outputs = client.post(f"/v2/models/{TINY.name}/infer", json={"inputs": [tensor]}).json()["outputs"]
    logits = next(output["data"] for output in outputs if output["name"] == "logits")
    assert [one["score"] for one in found] == pytest.approx(sorted(logits, reverse=True), abs=1e-5)


def test_huggingfaces_own_client_embeds(server: Server, client: httpx.Client) -> None:
    hub = InferenceClient(f"{server.url}/pipeline/feature-extraction")
    for normalize in (False, True):
        alone = client.post("/embed", content=JPEG, params={"normalize": normalize}).json()["embedding"]
        found = hub.feature_extraction(in_base64(JPEG), normalize=normalize)
        assert found.shape == (1, sum(TINY.dims))
        np.testing.assert_allclose(found[0], alone, atol=1e-5)
    raw = client.post("/pipeline/feature-extraction", content=JPEG).json()
    assert len(raw[0]) == sum(TINY.dims)


def test_huggingfaces_own_client_sends_its_token_as_the_key_and_reads_errors(closed: Server) -> None:
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(closed.url).image_classification(JPEG)
    assert len(InferenceClient(closed.url, token=KEY).image_classification(JPEG)) == 5
    with pytest.raises(HfHubHTTPError, match="not a JPEG"):
        InferenceClient(closed.url, token=KEY).image_classification(b"no image at all")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "inputs is missing"),
        ({"inputs": [in_base64(JPEG)]}, "not a list"),
        ({"inputs": "https://example.org/cat.jpg"}, "the service fetches no URLs"),
        ({"inputs": 3}, "inputs must be an image file in base64: this is a number"),
        ({"inputs": in_base64(JPEG), "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": in_base64(JPEG), "parameters": {"function_to_apply": "tanh"}}, "function_to_apply"),
    ],
)
def test_errors_have_huggingfaces_form(client: httpx.Client, request_: dict[str, Any], message: str) -> None:
    for path in ("/", f"/models/{TINY.name}"):
        response = client.post(path, json=request_)
        assert response.status_code == 400, response.text
        assert response.json().keys() == {"error"}
        assert message in response.json()["error"]


def test_the_page_and_the_links_stay_at_the_root(client: httpx.Client) -> None:
    assert client.get("/").json()["classify"] == "classify"
    assert client.get("/", headers={"Accept": "text/html"}).headers["Content-Type"].startswith("text/html")
    assert client.put("/").headers["Allow"] == "GET, HEAD, OPTIONS, POST"


# KServe, V1


@pytest.mark.parametrize(
    "instance",
    [
        in_base64(JPEG),
        {"b64": in_base64(JPEG)},
        {"image_bytes": {"b64": in_base64(JPEG)}},
        {"data": in_base64(JPEG)},
        {"image": {"b64": in_base64(JPEG), "name": "a.jpg"}},
    ],
)
def test_v1_predicts_image_files_in_the_forms_that_clients_have(
    client: httpx.Client, classified: dict[str, float], instance: Any
) -> None:
    response = client.post(f"/v1/models/{TINY.name}:predict", json={"instances": [instance, {"b64": in_base64(PNG)}]})
    assert response.status_code == 200, response.text
    first, second = response.json()["predictions"]
    assert {one["label"]: one["score"] for one in first} == pytest.approx(classified, abs=1e-6)
    assert [one["rank"] for one in second] == [1, 2, 3, 4, 5]


def test_v1_predicts_the_pixels_that_the_network_sees_as_v2_does(client: httpx.Client) -> None:
    images = [pixels(client), pixels(client)]
    request = {"instances": [images[0], {"image": images[1]}], "parameters": {"top_k": 3}, "signature_name": "x"}
    response = client.post(f"/v1/models/{TINY.name}:predict", json=request)
    assert response.status_code == 200, response.text
    side = len(images[0])
    tensor = {"name": "image", "shape": [1, side, side, 3], "datatype": "UINT8", "data": [images[0]]}
    outputs = [{"name": "logits", "parameters": {"classification": 3}}]
    answer = client.post(f"/v2/models/{TINY.name}/infer", json={"inputs": [tensor], "outputs": outputs}).json()
    indices = [int(text.split(":")[1]) for text in answer["outputs"][0]["data"]]
    for found in response.json()["predictions"]:
        assert [one["index"] for one in found] == indices


def test_v1_explains_image_files(client: httpx.Client) -> None:
    request = {"instances": [{"b64": in_base64(JPEG)}, {"b64": in_base64(PNG)}]}
    response = client.post(f"/v1/models/{TINY.name}:explain", json=request)
    assert response.status_code == 200, response.text
    found = response.json()["explanations"]
    assert len(found) == 2
    alone = client.post("/explain", content=JPEG).json()
    assert found[0]["picture"] == alone["picture"]
    assert found[0]["explanations"][0]["index"] == alone["explanations"][0]["index"]
    refused = client.post(f"/v1/models/{TINY.name}:explain", json={"instances": [pixels(client)]})
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "instances must be image files in base64 here, not pixels",
    )


def test_v1_lists_its_models(client: httpx.Client) -> None:
    assert client.get("/v1/models").json() == {"models": [TINY.name]}
    assert client.get(f"/v1/models/{TINY.name}").json() == {"name": TINY.name, "ready": True}
    response = client.get("/v1/models/none")
    assert response.status_code == 404
    assert response.json().keys() == {"error"}


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({}, 400, "instances must be a list of images"),
        ({"instances": {}}, 400, "instances must be a list of images"),
        ({"instances": ["hello!"]}, 400, "instances[0] must be an image file in base64"),
        ({"instances": [{"b64": in_base64(JPEG)}, {"a": 1, "b": 2}]}, 400, "instances[1] must be an image file"),
        ({"instances": [{"b64": in_base64(JPEG)}, {"b64": in_base64(b"no image")}]}, 415, "instances[1]: "),
        ({"instances": [[[1, 2], [3, 4]]]}, 400, "the pixels in instances: 'image' must be UINT8 [batch, side, side"),
        ({"instances": [[[[1, 2, 300]]]]}, 400, "the pixels in instances: "),
        ({"instances": [[[[1, 2, 3]]]]}, 400, "of 1 pixels a side is not served"),
        ({"instances": [[[[1, 2, 3]]], "hello"]}, 400, "the lists in 'image' do not have its shape"),
        ({"instances": [{"b64": in_base64(PNG[:40])}] * 33}, 413, "33 images are over the limit of 32"),
        ({"instances": [[[[1, 2, 3]]]] * 33}, 413, "33 images are over the limit of 32"),
    ],
)
def test_errors_have_v1s_form(client: httpx.Client, request_: dict[str, Any], status: int, message: str) -> None:
    response = client.post(f"/v1/models/{TINY.name}:predict", json=request_)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (JPEG, 'an image file, and this route takes JSON: {"instances"'),
        (b"instances=@a.jpg", "an urlencoded form, and this route takes JSON"),
        (b"{", "the request is not JSON"),
        (b'{"instances": ' + b"[" * 100_000, "the request is not JSON"),
        (b"\xff\xfe", "text in UTF-16, and this route takes JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_v1s_advice(client: httpx.Client, body: bytes, message: str) -> None:
    response = client.post(f"/v1/models/{TINY.name}:predict", content=body)
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_v2_names_the_route_of_v1(client: httpx.Client) -> None:
    response = client.post(f"/v2/models/{TINY.name}/infer", json={"instances": ["x"]})
    assert "POST /v1/models/{model}:predict takes 'instances'" in response.json()["error"]


# TorchServe


def test_torchserves_users_upload_with_curl_t(server: Server, classified: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "kitten.jpg").write_bytes(JPEG)
    command = ["curl", "-sS", f"{server.url}/predictions/{TINY.name}", "-T", "kitten.jpg"]
    answer = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60).stdout)
    assert answer == pytest.approx(classified, abs=1e-6)
    assert list(answer) == list(classified)


@pytest.mark.parametrize("field", ["data", "body", "file"])
@pytest.mark.parametrize("path", [f"/predictions/{TINY.name}", f"/predictions/{TINY.name}/1.0"])
def test_torchserves_users_send_forms(
    client: httpx.Client, classified: dict[str, float], path: str, field: str
) -> None:
    assert client.post(path, files={field: JPEG}).json() == pytest.approx(classified, abs=1e-6)


def test_errors_have_torchserves_form(client: httpx.Client) -> None:
    for path, body, status, kind in (
        (f"/predictions/{TINY.name}/2.0", JPEG, 404, "UnknownModel"),
        ("/predictions/none", JPEG, 404, "UnknownModel"),
        (f"/predictions/{TINY.name}", b"no image", 415, "NotAnImage"),
        (f"/predictions/{TINY.name}", b"", 400, "NoImage"),
    ):
        response = client.put(path, content=body)
        assert response.status_code == status, response.text
        assert response.json().keys() == {"code", "type", "message"}
        assert (response.json()["code"], response.json()["type"]) == (status, kind)


def test_ping_is_the_probe_of_torchserve(client: httpx.Client) -> None:
    assert client.get("/ping").json() == {"status": "Healthy"}


def test_errors_about_forms_and_empty_bodies_name_the_fields_of_the_dialect(client: httpx.Client) -> None:
    named, root = f"/predictions/{TINY.name}", "/pipeline/image-classification"
    message = client.post(named, files={"image": JPEG}).json()["message"]
    assert "no file in the field 'data', but in 'image'; send the image as multipart field 'data' or 'body'" in message
    assert "multipart field 'data' or 'body'" in client.post(named, content=b"").json()["message"]
    for request in ({"files": {"image": JPEG}}, {"content": b""}):
        error = client.post(root, **request).json()["error"]
        assert 'or as {"inputs": "base64 of an image file"}' in error
        assert "multipart field" not in error


# What all have in common


@pytest.mark.parametrize("path", [*ALL_CLASSIFYING, "/pipeline/feature-extraction", f"/v1/models/{TINY.name}:explain"])
def test_a_query_is_refused_instead_of_ignored(client: httpx.Client, path: str) -> None:
    response = client.post(f"{path}?top_k=1", content=JPEG)
    assert response.status_code == 422
    assert "unknown parameter 'top_k' in the query: this route takes none there" in response.text


@pytest.mark.parametrize("path", ALL_CLASSIFYING)
def test_keys_are_required_and_images_are_charged(closed: Server, path: str) -> None:
    assert httpx.post(f"{closed.url}{path}", content=JPEG).status_code == 401
    batch = {"instances": [{"b64": in_base64(JPEG)}] * 5}
    headers = {"Authorization": f"Bearer {KEY}"}
    response = httpx.post(f"{closed.url}/v1/models/{TINY.name}:predict", json=batch, headers=headers)
    assert response.status_code in (413, 429), response.text


def test_the_metrics_have_the_routes_and_no_text_of_clients(client: httpx.Client) -> None:
    client.post(f"/models/{TINY.name}", content=JPEG)
    client.post(f"/v1/models/{TINY.name}:predict", json={"instances": [in_base64(JPEG)]})
    client.post(f"/predictions/{TINY.name}/secret", content=JPEG)
    text = client.get("/metrics").text
    for route in ("/models/{name}", "/v1/models/{name}:predict", "/predictions/{name}/{version}"):
        assert f'crossvit_requests_total{{method="POST",route="{route}"' in text
    assert "secret" not in text


def test_a_deadline_is_kept(client: httpx.Client) -> None:
    for path in ALL_CLASSIFYING:
        response = client.post(path, content=JPEG, headers={"X-Request-Timeout-Ms": "x"})
        assert response.status_code == 422, path
