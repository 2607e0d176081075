"""The Open Inference Protocol on the real service, as the stock Triton client speaks it; then what that cannot say."""

import asyncio
import base64
import gc
import gzip
import json
import re
import shutil
import time
import zlib
from collections.abc import Coroutine, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from pydantic import SecretStr
from tritonclient.utils import InferenceServerException

from app.configuration.settings import Settings
from app.main import create_app
from bundle.reader import open_bundle
from tests.support import reference_network
from tests.support.pictures import JPEG, encoded, scene
from tests.support.reference_network import TINY
from tests.support.servers import Server, crossvit_serve

# Triton's asyncio client does not read the answers of its is_…_live and is_…_ready.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed (connection|response):ResourceWarning")

GOLDEN = np.load(reference_network.GOLDEN / "crossvit_tiny.npz")
FILES = [JPEG, encoded(scene(260, 300, 1), "PNG"), encoded(scene(300, 230, 2), "WEBP", lossless=True)]
OUTPUTS = ["logits", "logits_small", "logits_large"]
NAME = TINY.name
OTHER = "other"  # a second model, to load and unload
KEY = "the-key-of-the-admin"
CLIENT_KEY = "the-key-of-a-client"
ADMIN = {"Authorization": f"Bearer {KEY}"}
OPTIONS = [
    "--engine",
    "onnxruntime",
    "--precision",
    "f32",
    "--max-images",
    "8",
    "--max-body-bytes",
    "3000000",
    "--grace-seconds",
    "0",
]


@pytest.fixture(scope="module")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two models and a broken one, with an admin key."""
    folder = tmp_path_factory.mktemp("models")
    for name in (NAME, OTHER):
        shutil.copytree(bundle, folder / name)
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{}")
    options = ["--bundle", str(folder), "--default-model", NAME, "--admin-keys", KEY, *OPTIONS]
    with crossvit_serve(tmp_path_factory.mktemp("log") / "log", *options) as server:
        server.wait_until_ready()
        server.wait_until_ready(path=f"/v2/models/{OTHER}/ready")
        yield server


@pytest.fixture
def client(served: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.url.removeprefix("http://"), concurrency=4) as client:
        yield client


@pytest.fixture
def raw(served: Server) -> Iterator[httpx.Client]:
    """HTTP by hand, without the compression that httpx asks for by itself."""
    with httpx.Client(base_url=served.url, timeout=60, headers={"Accept-Encoding": "identity"}) as client:
        yield client


def image(pixels: NDArray[np.uint8], *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    return tensor.set_data_from_numpy(pixels, binary_data=binary)


def files(contents: list[bytes], *, binary: bool = True) -> triton.InferInput:
    contents = contents if binary else [base64.b64encode(content) for content in contents]
    tensor = triton.InferInput("encoded", [len(contents)], "BYTES")
    return tensor.set_data_from_numpy(np.array(contents, object), binary_data=binary)


def wanted(name: str = "logits", **options: Any) -> triton.InferRequestedOutput:
    return triton.InferRequestedOutput(name, **options)


def assert_logits(result: triton.InferResult, count: int = 3, side: int = 224) -> None:
    logits = result.as_numpy("logits")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, GOLDEN[f"logits_{side}"][:count], atol=1e-5, rtol=0)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exponentials = np.exp(logits.astype(np.float64))
    return np.asarray(exponentials / exponentials.sum())


def classified(raw: httpx.Client, file: bytes, **query: Any) -> list[dict[str, Any]]:
    answer = raw.post("/classify", params={"model": NAME} | query, files={"file": file}).json()
    predictions: list[dict[str, Any]] = answer["predictions"]
    return predictions


def assert_as_classified(logits: NDArray[np.float32], predictions: list[dict[str, Any]]) -> None:
    best = np.argsort(-logits, kind="stable")[: len(predictions)]
    assert list(best) == [prediction["index"] for prediction in predictions]
    scores = [prediction["score"] for prediction in predictions]
    np.testing.assert_allclose(softmax(logits)[best], scores, rtol=1e-5)


def infer_body(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(JPEG).decode()]}
    return {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"classification": 1}}]} | changes


def infer(raw: httpx.Client, model: str = NAME, **request: Any) -> httpx.Response:
    return raw.post(f"/v2/models/{model}/infer", **({"json": infer_body()} | request))


def assert_failure(response: Any, status: int, message: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.json().keys() == {"error"}
    assert message in response.json()["error"]


def refused(status: int, message: str) -> Any:
    return pytest.raises(InferenceServerException, match=rf"^\[{status}\] .*{message}")


# What is served


def test_the_server_and_its_models_are_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert not client.is_model_ready(NAME, "2")
    assert not client.is_model_ready("resnet")
    assert not client.is_model_ready("broken")


def test_health_is_answered_in_the_protocols_words(raw: httpx.Client) -> None:
    assert raw.get("/v2/health/live").json() == {"live": True}
    assert raw.get("/v2/health/ready").json() == {"ready": True}
    assert raw.get(f"/v2/models/{NAME}/ready").json() == {"name": NAME, "ready": True}


def test_the_server_says_what_it_is(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata() == {
        "name": "crossvit",
        "version": version("crossvit"),
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository",
            "statistics",
        ],
    }


@pytest.mark.parametrize("model_version", ["", "1"])
def test_a_model_says_what_it_takes_and_gives(client: triton.InferenceServerClient, model_version: str) -> None:
    assert client.get_model_metadata(NAME, model_version) == {
        "name": NAME,
        "versions": ["1"],
        "platform": "crossvit_onnxruntime",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            *({"name": name, "datatype": "FP32", "shape": [-1, 1000]} for name in OUTPUTS),
            {"name": "embedding", "datatype": "FP32", "shape": [-1, sum(TINY.dims)]},
        ],
    }


@pytest.mark.parametrize("model_version", ["", "1"])
def test_the_configuration_is_what_the_service_was_started_with(
    client: triton.InferenceServerClient, model_version: str
) -> None:
    config = client.get_model_config(NAME, model_version)
    assert (config["name"], config["backend"], config["max_batch_size"]) == (NAME, "crossvit", 8)
    assert [(tensor["name"], tensor["data_type"]) for tensor in config["input"]] == [
        ("image", "TYPE_UINT8"),
        ("encoded", "TYPE_STRING"),
    ]
    assert [(tensor["name"], tensor["dims"]) for tensor in config["output"]] == [
        *((name, [1000]) for name in OUTPUTS),
        ("embedding", [sum(TINY.dims)]),
    ]


def test_the_statistics_count_images_and_engine_calls(client: triton.InferenceServerClient) -> None:
    (before,) = client.get_inference_statistics(NAME)["model_stats"]
    started = time.time()
    client.infer(NAME, [image(reference_network.images(224))])
    with refused(415, "not a JPEG"):
        client.infer(NAME, [files([b"hello"])])
    (after,) = client.get_inference_statistics(NAME, "1")["model_stats"]
    assert (after["name"], after["version"]) == (NAME, "1")
    assert after["inference_count"] == before["inference_count"] + 3
    assert 1 <= after["execution_count"] - before["execution_count"] <= 3
    assert 1000 * started - 1000 < after["last_inference"] < 1000 * time.time() + 1000
    for stage, images in {"success": 3, "queue": 3, "compute_input": 3, "compute_infer": 3, "fail": 1}.items():
        old, new = before["inference_stats"][stage], after["inference_stats"][stage]
        assert new["count"] == old["count"] + images
        assert new["ns"] >= old["ns"]
    assert after["execution_count"] == sum(batch["compute_infer"]["count"] for batch in after["batch_stats"])
    assert after["inference_count"] == sum(
        batch["batch_size"] * batch["compute_infer"]["count"] for batch in after["batch_stats"]
    )


def test_the_statistics_of_all_models_come_together(client: triton.InferenceServerClient) -> None:
    assert {model["name"] for model in client.get_inference_statistics()["model_stats"]} == {NAME, OTHER}


# The repository


def test_the_index_has_every_model_with_its_state(client: triton.InferenceServerClient) -> None:
    index = {model["name"]: model for model in client.get_model_repository_index()}
    assert index[NAME] == {"name": NAME, "version": "1", "state": "READY", "reason": ""}
    assert index["broken"]["state"] == "UNAVAILABLE"
    assert "export the bundle again" in index["broken"]["reason"]
    assert set(index) == {NAME, OTHER, "broken"}


def test_the_index_can_be_of_the_ready_models_alone(raw: httpx.Client) -> None:
    for asked, names in [({"ready": True}, {NAME, OTHER}), ({"ready": False}, {NAME, OTHER, "broken"})]:
        index = raw.post("/v2/repository/index", json=asked)
        assert {model["name"] for model in index.json()} == names
    assert_failure(raw.post("/v2/repository/index", content=b"{"), 400, "the body must be JSON with ready")


def test_a_model_is_unloaded_and_loaded(client: triton.InferenceServerClient) -> None:
    client.unload_model(OTHER, headers=ADMIN)
    try:
        assert not client.is_model_ready(OTHER)
        assert client.is_server_ready()
        index = {model["name"]: model for model in client.get_model_repository_index()}
        assert (index[OTHER]["state"], index[OTHER]["reason"]) == ("UNAVAILABLE", "unloaded")
        with refused(503, "other .*unloaded"):
            client.infer(OTHER, [files([JPEG])])
        with refused(503, "other .*unloaded"):
            client.get_model_metadata(OTHER)
        assert [model["name"] for model in client.get_inference_statistics()["model_stats"]] == [NAME]
    finally:
        client.load_model(OTHER, headers=ADMIN)
    assert client.is_model_ready(OTHER)
    assert_logits(client.infer(OTHER, [image(reference_network.images(224)[:1])]), 1)
    client.load_model(OTHER, headers=ADMIN)
    assert client.is_model_ready(OTHER)


@pytest.mark.parametrize("headers", [None, {"Authorization": "Bearer some-other-key"}, {"X-API-Key": "wrong-key"}])
def test_without_the_admin_key_no_model_is_loaded_or_unloaded(
    client: triton.InferenceServerClient, headers: dict[str, str] | None
) -> None:
    for change in (client.load_model, client.unload_model):
        with refused(401, "send an admin key"):
            change(OTHER, headers=headers)
    assert client.is_model_ready(OTHER)


def test_a_load_that_fails_says_why_and_harms_nobody(client: triton.InferenceServerClient) -> None:
    with refused(400, "broken cannot be loaded: .*export the bundle again"):
        client.load_model("broken", headers=ADMIN)
    with refused(404, "there is no bundle called 'resnet' to load"):
        client.load_model("resnet", headers=ADMIN)
    with refused(404, "there is no model 'resnet'"):
        client.unload_model("resnet", headers=ADMIN)
    with refused(400, "parameters are not supported"):
        client.load_model(OTHER, headers=ADMIN, config="{}")
    assert client.is_model_ready(OTHER)
    assert client.is_server_ready()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"parameters": 1}'])
def test_a_load_with_an_invalid_body_is_refused(raw: httpx.Client, body: bytes) -> None:
    response = raw.post(f"/v2/repository/models/{OTHER}/load", content=body, headers=ADMIN)
    assert_failure(response, 400, "the body must be JSON with parameters")


# Inference


@pytest.mark.parametrize("response_compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_compression", [None, "gzip", "deflate"])
def test_pixels_give_the_reference_logits_however_they_travel(
    client: triton.InferenceServerClient, request_compression: str | None, response_compression: str | None
) -> None:
    for binary_in, binary_out in [(True, True), (False, False)]:
        result = client.infer(
            NAME,
            [image(reference_network.images(224)[:1], binary=binary_in)],
            outputs=[wanted(binary_data=binary_out)],
            request_compression_algorithm=request_compression,
            response_compression_algorithm=response_compression,
        )
        assert_logits(result, 1)


@pytest.mark.parametrize("model_version", ["", "1"])
def test_a_batch_is_answered_in_its_order(client: triton.InferenceServerClient, model_version: str) -> None:
    result = client.infer(NAME, [image(reference_network.images(224))], model_version=model_version)
    assert_logits(result)
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == (NAME, "1")
    assert [(output["name"], output["shape"]) for output in response["outputs"]] == [
        (name, [3, 1000]) for name in OUTPUTS
    ]


def test_the_side_of_the_pixels_chooses_the_resolution(client: triton.InferenceServerClient) -> None:
    assert_logits(client.infer(NAME, [image(reference_network.images(384)[:2])]), 2, side=384)


def test_the_logits_are_the_mean_of_the_branches(client: triton.InferenceServerClient) -> None:
    result = client.infer(NAME, [image(reference_network.images(224))])
    small, large = result.as_numpy("logits_small"), result.as_numpy("logits_large")
    np.testing.assert_allclose(result.as_numpy("logits"), (small + large) / 2, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_files_are_answered_as_classify_answers_them(
    client: triton.InferenceServerClient, raw: httpx.Client, binary: bool
) -> None:
    logits = client.infer(NAME, [files(FILES, binary=binary)]).as_numpy("logits")
    assert logits.shape == (3, 1000)
    for row, file in zip(logits, FILES, strict=True):
        assert_as_classified(row, classified(raw, file))


def test_a_resolution_can_be_asked_for_files(client: triton.InferenceServerClient, raw: httpx.Client) -> None:
    result = client.infer(NAME, [files([JPEG])], parameters={"resolution": 384})
    assert_as_classified(result.as_numpy("logits")[0], classified(raw, JPEG, resolution=384))
    with refused(400, "resolution 225 is not served; one of 224, 384, 480"):
        client.infer(NAME, [files([JPEG])], parameters={"resolution": 225})
    with refused(400, "the parameter 'resolution' must be a whole number"):
        client.infer(NAME, [files([JPEG])], parameters={"resolution": "224"})


def test_the_request_id_comes_back(client: triton.InferenceServerClient) -> None:
    pixels = [image(reference_network.images(224)[:1])]
    assert client.infer(NAME, pixels, request_id="trace/1 ü").get_response()["id"] == "trace/1 ü"
    assert "id" not in client.infer(NAME, pixels).get_response()


def test_embeddings_come_where_they_are_named_alone_or_beside_logits(
    client: triton.InferenceServerClient, served: Server
) -> None:
    expected = [httpx.post(f"{served.url}/embed", content=file, timeout=60).json()["embedding"] for file in FILES]
    alone = client.infer(NAME, [files(FILES)], outputs=[wanted("embedding")]).as_numpy("embedding")
    np.testing.assert_allclose(alone, expected, atol=1e-4)
    both = client.infer(NAME, [files(FILES)], outputs=[wanted("embedding", binary_data=False), wanted("logits")])
    np.testing.assert_allclose(both.as_numpy("embedding"), expected, atol=1e-4)
    logits = client.infer(NAME, [files(FILES)], outputs=[wanted("logits")]).as_numpy("logits")
    np.testing.assert_allclose(both.as_numpy("logits"), logits, atol=1e-4)
    pixels = client.infer(NAME, [image(reference_network.images(224))], outputs=[wanted("embedding")])
    assert pixels.as_numpy("embedding").shape == (len(reference_network.images(224)), sum(TINY.dims))
    with refused(400, "the output 'embedding' has no classes"):
        client.infer(NAME, [files(FILES)], outputs=[wanted("embedding", class_count=2)])


def test_outputs_are_selected_each_in_its_form(client: triton.InferenceServerClient) -> None:
    outputs = [wanted("logits_large", binary_data=False), wanted("logits", binary_data=True)]
    result = client.infer(NAME, [image(reference_network.images(224))], outputs=outputs)
    large, logits = result.get_response()["outputs"]
    assert (large["name"], logits["name"]) == ("logits_large", "logits")
    assert "data" in large
    assert "data" not in logits
    assert logits["parameters"] == {"binary_data_size": 3 * 1000 * 4}
    assert result.as_numpy("logits_small") is None
    assert_logits(result)


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_come_with_their_labels(
    client: triton.InferenceServerClient, bundle: Path, binary: bool
) -> None:
    labels = open_bundle(bundle).labels
    outputs = [wanted(class_count=3, binary_data=binary), wanted("logits_small")]
    result = client.infer(NAME, [image(reference_network.images(224))], outputs=outputs)
    rows = result.as_numpy("logits")
    assert rows.shape == (3, 3)
    assert result.as_numpy("logits_small").shape == (3, 1000)
    for row, reference in zip(rows, GOLDEN["logits_224"], strict=True):
        for item, index in zip(row, np.argsort(-reference)[:3], strict=True):
            value, found, label = (item.decode() if binary else item).split(":", 2)
            assert (int(found), label) == (index, labels[index].label)
            assert float(value) == pytest.approx(reference[index], abs=2e-5)


def test_asynchronous_requests_get_their_own_answers(client: triton.InferenceServerClient) -> None:
    pending = [
        client.async_infer(NAME, [image(reference_network.images(224)[n : n + 1])], request_id=str(n))
        for n in (0, 1, 2, 0, 1, 2)
    ]
    for n, request in enumerate(pending):
        result = request.get_result()
        assert result.get_response()["id"] == str(n % 3)
        np.testing.assert_allclose(result.as_numpy("logits")[0], GOLDEN["logits_224"][n % 3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_bodies_that_the_client_makes_and_reads_by_itself(raw: httpx.Client, encoding: str | None) -> None:
    body, json_bytes = triton.InferenceServerClient.generate_request_body(
        [image(reference_network.images(224))], outputs=[wanted()], request_id="by hand"
    )
    headers = {"Inference-Header-Content-Length": str(json_bytes), "Accept-Encoding": encoding or "identity"}
    with raw.stream("POST", f"/v2/models/{NAME}/infer", content=body, headers=headers) as response:
        content = b"".join(response.iter_raw())
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Vary"] == "Accept-Encoding"
    result = triton.InferenceServerClient.parse_response_body(
        content,
        header_length=int(response.headers["Inference-Header-Content-Length"]),
        content_encoding=response.headers.get("Content-Encoding"),
    )
    assert_logits(result)
    assert result.get_response()["id"] == "by hand"


def test_a_name_or_version_that_is_not_served_is_404(client: triton.InferenceServerClient) -> None:
    asks = [
        client.get_model_metadata,
        client.get_model_config,
        client.get_inference_statistics,
        lambda name, model_version="": client.infer(name, [files([JPEG])], model_version=model_version),
    ]
    for ask in asks:
        with refused(404, "there is no model 'resnet'"):
            ask("resnet")
        with refused(404, f"'{NAME}' has no version '2'; its only version is '1'"):
            ask(NAME, "2")


@pytest.mark.parametrize(
    ("tensor", "status", "message"),
    [
        (image(np.zeros((1, 100, 100, 3), np.uint8)), 400, "'image' of 100 pixels a side is not served; one of 224"),
        (image(np.zeros((224, 224, 3), np.uint8)), 400, r"must be UINT8 \[batch, side, side, 3\], not UINT8"),
        (image(np.zeros((1, 3, 224, 224), np.uint8)), 400, "must be UINT8"),
        (image(np.zeros((0, 224, 224, 3), np.uint8)), 400, "the batch is empty"),
        (files([b""] * 9), 413, "9 images are over the limit of 8 in one request"),
        (files([b""]), 415, "the file is empty"),
        (files([JPEG, b"hello"]), 415, "not a JPEG, PNG, WebP, GIF, BMP, AVIF or ICO"),
        (files([JPEG[: len(JPEG) // 2]]), 422, "the JPEG image is incomplete: the file ends"),
        (triton.InferInput("pixels", [1], "UINT8").set_data_from_numpy(np.zeros(1, np.uint8)), 400, "no input 'pixel"),
        (triton.InferInput("image", [1], "UINT8").set_shared_memory("r", 1), 400, "'image' cannot be in shared mem"),
        (triton.InferInput("image", [1], "UINT8"), 400, "the input 'image' has no data"),
    ],
)
def test_inputs_that_cannot_be_are_refused_with_the_reason(
    client: triton.InferenceServerClient, tensor: triton.InferInput, status: int, message: str
) -> None:
    with refused(status, message):
        client.infer(NAME, [tensor])


def test_other_requests_that_cannot_be_are_refused_with_the_reason(client: triton.InferenceServerClient) -> None:
    pixels = image(reference_network.images(224)[:1])
    with refused(400, "a request has one input, 'image' or 'encoded', not 2"):
        client.infer(NAME, [pixels, files([JPEG])])
    with refused(400, "there is no output 'probabilities'; one of logits, logits_small, logits_large, embedding"):
        client.infer(NAME, [pixels], outputs=[wanted("probabilities")])
    with refused(400, "an output is requested more than once"):
        client.infer(NAME, [pixels], outputs=[wanted(), wanted()])
    with refused(400, "'classification' must be a number of classes"):
        client.infer(NAME, [pixels], outputs=[wanted(class_count=-1)])
    shared = wanted()
    shared.set_shared_memory("region", 4000)
    with refused(400, "'logits' cannot be in shared memory"):
        client.infer(NAME, [pixels], outputs=[shared])


def test_extensions_that_are_not_listed_are_404(client: triton.InferenceServerClient) -> None:
    for ask, path in [
        (client.get_trace_settings, "GET /v2/trace/setting"),
        (lambda: client.get_trace_settings(NAME), f"GET /v2/models/{NAME}/trace/setting"),
        (lambda: client.update_trace_settings(settings={}), "POST /v2/trace/setting"),
        (client.get_log_settings, "GET /v2/logging"),
        (lambda: client.update_log_settings({}), "POST /v2/logging"),
        (client.get_system_shared_memory_status, "GET /v2/systemsharedmemory/status"),
        (lambda: client.register_system_shared_memory("r", "k", 1), "POST /v2/systemsharedmemory/region/r/register"),
        (client.unregister_system_shared_memory, "POST /v2/systemsharedmemory/unregister"),
        (client.get_cuda_shared_memory_status, "GET /v2/cudasharedmemory/status"),
        (lambda: client.register_cuda_shared_memory("r", b"h", 0, 1), "POST /v2/cudasharedmemory/region/r/register"),
        (client.unregister_cuda_shared_memory, "POST /v2/cudasharedmemory/unregister"),
    ]:
        with refused(404, f"{path}: the service has no such path"):
            ask()


# The same by asyncio


def with_aio(served: Server, work: Any) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(served.url.removeprefix("http://")) as client:
            await work(client)

    asyncio.run(run())
    gc.collect()  # what the client has left open, while the filter at the top holds


async def assert_refused(ask: Coroutine[Any, Any, Any], status: int, message: str) -> None:
    with refused(status, message):
        await ask


def test_asyncio_what_is_served(served: Server) -> None:
    async def work(client: triton_aio.InferenceServerClient) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(NAME, "1")
        assert not await client.is_model_ready("resnet")
        assert (await client.get_server_metadata())["name"] == "crossvit"
        for model_version in ("", "1"):
            assert (await client.get_model_metadata(NAME, model_version))["versions"] == ["1"]
            assert (await client.get_model_config(NAME, model_version))["max_batch_size"] == 8
            assert len((await client.get_inference_statistics(NAME, model_version))["model_stats"]) == 1
        assert len((await client.get_inference_statistics())["model_stats"]) == 2
        assert len(await client.get_model_repository_index()) == 3
        await assert_refused(client.get_model_metadata("resnet"), 404, "there is no model 'resnet'")
        await assert_refused(client.get_log_settings(), 404, "GET /v2/logging")

    with_aio(served, work)


def test_asyncio_loading_and_unloading(served: Server) -> None:
    async def work(client: triton_aio.InferenceServerClient) -> None:
        await assert_refused(client.unload_model(OTHER), 401, "send an admin key")
        await client.unload_model(OTHER, headers=ADMIN)
        ready = await client.is_model_ready(OTHER)
        await assert_refused(client.load_model(OTHER), 401, "send an admin key")
        await client.load_model(OTHER, headers=ADMIN)
        assert (ready, await client.is_model_ready(OTHER)) == (False, True)

    with_aio(served, work)


def test_asyncio_inference(served: Server) -> None:
    pixels = reference_network.images(224)

    async def work(client: triton_aio.InferenceServerClient) -> None:
        for binary in (True, False):
            for packed in (None, "gzip", "deflate"):
                result = await client.infer(
                    NAME,
                    [image(pixels[:1], binary=binary)],
                    outputs=[wanted(binary_data=binary)],
                    request_id="aio",
                    request_compression_algorithm=packed,
                    response_compression_algorithm=packed,
                )
                assert_logits(result, 1)
                assert result.get_response()["id"] == "aio"
        together = await asyncio.gather(*(client.infer(NAME, [image(pixels)]) for _ in range(3)))
        for result in together:
            assert_logits(result)
        classes = await client.infer(NAME, [files(FILES)], outputs=[wanted(class_count=2)])
        assert classes.as_numpy("logits").shape == (3, 2)
        await assert_refused(client.infer(NAME, [image(pixels[0])]), 400, "must be UINT8")

    with_aio(served, work)


# What the client cannot say


def test_a_raw_binary_request_is_one_file(raw: httpx.Client) -> None:
    response = infer(raw, json=None, content=JPEG, headers={"Inference-Header-Content-Length": "0"})
    json_bytes = int(response.headers["Inference-Header-Content-Length"])
    outputs = json.loads(response.content[:json_bytes])["outputs"]
    assert [output["name"] for output in outputs] == OUTPUTS
    logits = np.frombuffer(response.content[json_bytes : json_bytes + 4000], np.float32)
    assert_as_classified(logits, classified(raw, JPEG))


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream", "application/json"])
def test_the_content_type_does_not_matter(raw: httpx.Client, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = infer(raw, json=None, content=json.dumps(infer_body(id="x")).encode(), headers=headers)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert "Inference-Header-Content-Length" not in response.headers
    assert response.json()["id"] == "x"


def test_a_chunked_body_is_read_whole(raw: httpx.Client) -> None:
    body = json.dumps(infer_body()).encode()
    assert infer(raw, json=None, content=iter([body[:1000], body[1000:]])).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "gzip, deflate", "gzip2", "", "gzip", "deflate"])
def test_json_is_json_whatever_its_content_encoding_says(raw: httpx.Client, encoding: str) -> None:
    assert infer(raw, headers={"Content-Encoding": encoding}).status_code == 200


def test_null_counts_as_left_out(raw: httpx.Client) -> None:
    plain = infer(raw, json=infer_body(outputs=[]))
    answer = infer(raw, json=infer_body(id=None, parameters=None, outputs=None))
    assert answer.status_code == 200
    assert answer.json().keys() == plain.json().keys()
    assert [output["name"] for output in answer.json()["outputs"]] == OUTPUTS
    assert raw.post("/v2/repository/index", json={"ready": None}).json() == raw.post("/v2/repository/index").json()
    for body in ({"parameters": None}, {"parameters": {"config": None}}):
        assert raw.post(f"/v2/repository/models/{OTHER}/load", json=body, headers=ADMIN).status_code == 200


def test_base64_is_taken_as_tools_print_it(raw: httpx.Client) -> None:
    (plain,) = infer(raw).json()["outputs"]
    text = base64.b64encode(JPEG).decode()
    for data in (base64.encodebytes(JPEG).decode(), f"data:image/jpeg;base64,{text}", text.rstrip("=")):
        tensor = infer_body()["inputs"][0] | {"data": [data]}
        assert infer(raw, json=infer_body(inputs=[tensor])).json()["outputs"] == [plain]
    tensor |= {"data": ["https://example.org/cat.jpg"]}
    assert_failure(infer(raw, json=infer_body(inputs=[tensor])), 400, "this is a URL, and the service fetches no URLs")


@pytest.mark.parametrize(
    ("encoding", "pack"), [("GZIP", gzip.compress), ("Deflate", zlib.compress), ("identity", bytes)]
)
def test_the_name_of_an_encoding_has_no_case(raw: httpx.Client, encoding: str, pack: Any) -> None:
    content = pack(json.dumps(infer_body()).encode())
    assert infer(raw, json=None, content=content, headers={"Content-Encoding": encoding}).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_is_not_compressed_as_it_says_is_400(raw: httpx.Client, encoding: str) -> None:
    response = infer(raw, json=None, content=b"no data at all", headers={"Content-Encoding": encoding})
    assert_failure(response, 400, f"the body is not {encoding} data")


def test_a_body_that_decompresses_to_more_than_the_limit_is_413(raw: httpx.Client) -> None:
    bomb = gzip.compress(bytes(100_000_000), 9)
    response = infer(raw, json=None, content=bomb, headers={"Content-Encoding": "gzip"})
    assert_failure(response, 413, "over the limit of 3,000,000 bytes after decompression")


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("-1", "Inference-Header-Content-Length is not a number of bytes"),
        ("12.0", "is not a number of bytes"),
        ("9" * 20, "is not a number of bytes"),
        ("²", "is not a number of bytes"),
        ("99999999", "Inference-Header-Content-Length is 99999999, but the body has"),
        ("10", "the request is not JSON"),
    ],
)
def test_a_header_length_that_is_not_that_of_the_json_is_400(raw: httpx.Client, length: str, message: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode()}
    assert_failure(infer(raw, headers=headers), 400, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the request is not JSON"),
        (b"hello", "the request is not JSON"),
        (b"[" * 1_000_000, "recursion limit exceeded"),
        (b"{}", "inputs is missing"),
        (json.dumps(infer_body(id=7)).encode(), "id is not a string"),
        (json.dumps(infer_body(id="é" * 400_000)).encode(), "id is longer than 1000 characters"),
    ],
    ids=["empty", "text", "deep", "object", "number as id", "long id"],
)
def test_a_body_that_is_not_an_inference_request_is_400(raw: httpx.Client, content: bytes, message: str) -> None:
    assert_failure(infer(raw, json=None, content=content), 400, message)


def test_no_request_costs_a_decoder_its_life(raw: httpx.Client) -> None:
    """Those of this module's other tests have come before."""
    infer(raw, json=None, content=b"")
    assert infer(raw).status_code == 200
    assert not re.search(r"crossvit_decoder_restarts_total\{.*\} [^0]", raw.get("/metrics").text)


def test_errors_have_the_protocols_form_whoever_raises_them(raw: httpx.Client) -> None:
    assert_failure(raw.get("/v2/nowhere"), 404, "GET /v2/nowhere")
    assert_failure(raw.get(f"/v2/models/{NAME}/infer"), 405, f"GET /v2/models/{NAME}/infer")
    assert_failure(raw.post("/v2"), 405, "POST /v2")
    assert_failure(raw.post("/v2/repository/models/x/unload"), 401, "send an admin key")
    assert_failure(infer(raw, json=None, content=bytes(3_000_001)), 413, "over the limit of 3,000,000 bytes")
    assert_failure(raw.post("/v2/repository/index", content=bytes(3_000_001)), 413, "over the limit")
    assert_failure(infer(raw, headers={"X-Request-Timeout-Ms": "1"}), 504, "deadline")
    assert_failure(infer(raw, headers={"X-Request-Timeout-Ms": "soon"}), 422, "X-Request-Timeout-Ms")
    unauthorized = raw.post(f"/v2/repository/models/{OTHER}/load")
    assert unauthorized.headers["WWW-Authenticate"] == "Bearer"
    assert raw.get("/v2/repository/index").headers["Allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP, deflate, br", "gzip"),
        ("gzip;q=0.2, deflate;q=0.8", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.000", None),
        ("gzip ; q = 0", None),
        ("br, zstd", None),
        ("identity", None),
        ("*", None),
        ("x-gzip", "gzip"),
        ("identity;q=0, *", "gzip"),
        ("*;q=0.5, identity;q=0, gzip;q=0", "deflate"),
        ("identity;q=0", None),
        ("", None),
        (",;=;q=x,", None),
    ],
)
def test_the_answer_is_compressed_as_the_client_likes_best(
    raw: httpx.Client, accepted: str, encoding: str | None
) -> None:
    response = infer(raw, headers={"Accept-Encoding": accepted})
    assert response.headers.get("Content-Encoding") == encoding
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.json()["model_name"] == NAME


def test_errors_are_not_compressed(raw: httpx.Client) -> None:
    response = infer(raw, "resnet", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in response.headers
    assert_failure(response, 404, "there is no model 'resnet'")


def test_without_a_key_every_route_but_health_is_refused(bundle: Path) -> None:
    app = create_app(Settings(bundle=bundle, api_keys=[SecretStr(CLIENT_KEY)], admin_keys=[SecretStr(KEY)]))
    routes = [
        (method, path.format(name="resnet", version="2"))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/v2") and "/health/" not in path
    ]
    assert len(routes) == 15
    without_key = TestClient(app)
    for method, path in routes:
        assert_failure(without_key.request(method, path), 401, "send a")
    assert without_key.get("/v2/health/live").status_code == 200
    assert_failure(without_key.get("/v2/health/ready"), 503, NAME)


def test_inference_counts_towards_the_keys_rate(bundle: Path) -> None:
    app = create_app(Settings(bundle=bundle, api_keys=[SecretStr(CLIENT_KEY)], rate_limit="1/hour"))
    client = TestClient(app, headers={"X-API-Key": CLIENT_KEY})
    path = f"/v2/models/{NAME}/infer"
    assert_failure(client.post(path), 503, NAME)
    limited = client.post(path)
    assert_failure(limited, 429, "the limit of 1 image per hour for each key is reached")
    assert 0 < int(limited.headers["Retry-After"]) <= 3600


def test_no_request_of_this_file_was_logged_as_a_defect(served: Server, raw: httpx.Client) -> None:
    assert infer(raw).status_code == 200
    assert "Traceback" not in served.log_text()
