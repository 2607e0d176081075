"""The methods of the service, as Triton's stock client calls them; answers are those of the REST routes."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from bundle.reader import open_bundle
from tests.support import reference_network
from tests.support.grpc_ports import GrpcServer, failure_of, file_request, infer_request, stub_of
from tests.support.pictures import JPEG, encoded, scene
from tests.support.processes import workers
from tests.support.reference_network import TINY
from tests.support.waiting import wait_until

GOLDEN = np.load(reference_network.GOLDEN / "crossvit_tiny.npz")
FILES = [JPEG, encoded(scene(260, 300, 1), "PNG"), encoded(scene(300, 230, 2), "WEBP", lossless=True)]
OUTPUTS = ["logits", "logits_small", "logits_large"]
NAME = TINY.name


@pytest.fixture
def client(served: GrpcServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


def image(pixels: NDArray[np.uint8]) -> triton.InferInput:
    return triton.InferInput("image", list(pixels.shape), "UINT8").set_data_from_numpy(pixels)


def files(contents: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput("encoded", [len(contents)], "BYTES")
    return tensor.set_data_from_numpy(np.array(contents, object))


def wanted(name: str = "logits", count: int = 0) -> triton.InferRequestedOutput:
    return triton.InferRequestedOutput(name, class_count=count)


def refused(code: str, message: str) -> Any:
    return pytest.raises(InferenceServerException, match=rf"^\[StatusCode.{code}\] .*{message}")


def over_http(served: GrpcServer, outputs: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """The outputs for FILES as the REST route gives them."""
    data = [base64.b64encode(file).decode() for file in FILES]
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [len(FILES)], "data": data}
    body = {"inputs": [tensor], "outputs": outputs} | fields
    answer = httpx.post(f"{served.http.url}/v2/models/{NAME}/infer", json=body, timeout=60).json()
    found: list[dict[str, Any]] = answer["outputs"]
    return found


def test_the_server_and_its_models_are_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert not client.is_model_ready(NAME, "2")
    assert not client.is_model_ready("resnet")


def test_the_server_says_what_it_is(client: triton.InferenceServerClient) -> None:
    found = client.get_server_metadata(as_json=True)
    assert (found["name"], found["version"]) == ("crossvit", version("crossvit"))
    assert "model_repository" in found["extensions"]


def test_metadata_and_configuration_are_those_of_rest(client: triton.InferenceServerClient, served: GrpcServer) -> None:
    metadata = httpx.get(f"{served.http.url}/v2/models/{NAME}").json()
    found = client.get_model_metadata(NAME)
    assert (found.name, found.platform, list(found.versions)) == (NAME, metadata["platform"], ["1"])
    assert [
        {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in found.inputs
    ] == metadata["inputs"]
    assert [(tensor.name, list(tensor.shape)) for tensor in found.outputs] == [
        (tensor["name"], tensor["shape"]) for tensor in metadata["outputs"]
    ]
    expected = httpx.get(f"{served.http.url}/v2/models/{NAME}/config").json()
    config = client.get_model_config(NAME, "1", as_json=True)["config"]
    assert (config["backend"], config["max_batch_size"]) == (expected["backend"], expected["max_batch_size"])
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_UINT8", "TYPE_STRING"]
    assert [tensor["dims"] for tensor in config["output"]] == [
        [str(width) for width in tensor["dims"]] for tensor in expected["output"]
    ]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"


@pytest.mark.parametrize("model_version", ["", "1"])
def test_pixels_give_the_reference_logits(client: triton.InferenceServerClient, model_version: str) -> None:
    result = client.infer(NAME, [image(reference_network.images(224)[:2])], model_version=model_version)
    np.testing.assert_allclose(result.as_numpy("logits"), GOLDEN["logits_224"][:2], atol=1e-5, rtol=0)
    response = result.get_response()
    assert (response.model_name, response.model_version) == (NAME, "1")
    assert [(output.name, list(output.shape)) for output in response.outputs] == [(name, [2, 1000]) for name in OUTPUTS]


@pytest.mark.exhaustive
def test_the_side_of_the_pixels_chooses_the_resolution(client: triton.InferenceServerClient) -> None:
    result = client.infer(NAME, [image(reference_network.images(384)[:2])])
    np.testing.assert_allclose(result.as_numpy("logits"), GOLDEN["logits_384"][:2], atol=1e-5, rtol=0)


def test_files_are_answered_as_rest_answers_them_raw_and_typed(
    client: triton.InferenceServerClient, served: GrpcServer
) -> None:
    (expected,) = over_http(served, [{"name": "logits"}])
    raw = client.infer(NAME, [files(FILES)], outputs=[wanted()]).as_numpy("logits")
    np.testing.assert_allclose(raw.reshape(-1), expected["data"], atol=1e-5)
    with stub_of(served.address) as stub:
        typed = stub.ModelInfer(file_request(FILES))
    np.testing.assert_allclose(np.frombuffer(typed.raw_output_contents[0], np.float32), expected["data"], atol=1e-5)


def test_pixels_may_be_in_typed_contents(served: GrpcServer) -> None:
    pixels = reference_network.images(224)[:1]
    request = service_pb2.ModelInferRequest(model_name=NAME)
    contents = service_pb2.InferTensorContents(uint_contents=pixels.reshape(-1).tolist())
    request.inputs.add(name="image", datatype="UINT8", shape=pixels.shape, contents=contents)
    with stub_of(served.address) as stub:
        response = stub.ModelInfer(request)
        logits = np.frombuffer(response.raw_output_contents[0], np.float32)
        np.testing.assert_allclose(logits, GOLDEN["logits_224"][0], atol=1e-5, rtol=0)
        request.inputs[0].contents.uint_contents[7] = 256
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
    assert "whole numbers from 0 to 255" in failure_of(caught.value).text


@pytest.mark.exhaustive
def test_a_resolution_can_be_asked_for_files(client: triton.InferenceServerClient, served: GrpcServer) -> None:
    (expected,) = over_http(served, [{"name": "logits"}], parameters={"resolution": 384})
    result = client.infer(NAME, [files(FILES)], outputs=[wanted()], parameters={"resolution": 384})
    np.testing.assert_allclose(result.as_numpy("logits").reshape(-1), expected["data"], atol=1e-5)


def test_parameters_are_checked_as_over_rest(client: triton.InferenceServerClient) -> None:
    with refused("INVALID_ARGUMENT", "resolution 225 is not served; one of 224, 384, 480"):
        client.infer(NAME, [files(FILES)], parameters={"resolution": 225})
    with refused("INVALID_ARGUMENT", "the parameter 'resolution' must be a whole number"):
        client.infer(NAME, [files(FILES)], parameters={"resolution": "224"})


def test_classes_come_with_their_labels_and_embeddings_where_they_are_named(
    client: triton.InferenceServerClient, served: GrpcServer, bundle: Path
) -> None:
    labels = open_bundle(bundle).labels
    result = client.infer(NAME, [image(reference_network.images(224))], outputs=[wanted(count=3), wanted("embedding")])
    for row, reference in zip(result.as_numpy("logits"), GOLDEN["logits_224"], strict=True):
        for item, index in zip(row, np.argsort(-reference)[:3], strict=True):
            value, found, label = item.decode().split(":", 2)
            assert (int(found), label) == (index, labels[index].label)
            assert float(value) == pytest.approx(reference[index], abs=2e-5)
    embeddings = client.infer(NAME, [files(FILES)], outputs=[wanted("embedding")]).as_numpy("embedding")
    expected = [httpx.post(f"{served.http.url}/embed", content=file, timeout=60).json()["embedding"] for file in FILES]
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)
    assert result.as_numpy("embedding").shape == (len(reference_network.images(224)), sum(TINY.dims))


def test_the_id_of_a_request_comes_back(client: triton.InferenceServerClient) -> None:
    pixels = [image(reference_network.images(224)[:1])]
    assert client.infer(NAME, pixels, request_id="trace/1 ü").get_response().id == "trace/1 ü"
    assert client.infer(NAME, pixels).get_response().id == ""


def test_asynchronous_calls_get_their_own_answers(client: triton.InferenceServerClient, served: GrpcServer) -> None:
    pixels = reference_network.images(224)
    found: Queue[tuple[int, Any, Any]] = Queue()
    for index in range(len(pixels)):
        client.async_infer(
            NAME,
            [image(pixels[index : index + 1])],
            lambda result, error, index=index: found.put((index, result, error)),
        )
    for _ in pixels:
        index, result, error = found.get(timeout=60)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("logits")[0], GOLDEN["logits_224"][index], atol=1e-5, rtol=0)

    async def with_asyncio() -> NDArray[np.float32]:
        async with triton_aio.InferenceServerClient(served.address) as client:
            assert await client.is_server_ready()
            result = await client.infer(NAME, [image(pixels[:1])])
            logits: NDArray[np.float32] = result.as_numpy("logits")
            return logits

    np.testing.assert_allclose(asyncio.run(with_asyncio())[0], GOLDEN["logits_224"][0], atol=1e-5, rtol=0)


def test_statistics_count_the_images_of_both_protocols(
    client: triton.InferenceServerClient, served: GrpcServer
) -> None:
    def count() -> int:
        (stats,) = client.get_inference_statistics(NAME).model_stats
        assert stats.inference_stats.success.count == stats.inference_count
        return int(stats.inference_count)

    before = count()
    client.infer(NAME, [image(reference_network.images(224)[:2])])
    httpx.post(f"{served.http.url}/classify", params={"model": NAME}, files={"file": JPEG}, timeout=60)
    assert count() == before + 3
    assert {stats.name for stats in client.get_inference_statistics().model_stats} == {NAME, "other"}


def test_models_are_listed_unloaded_and_loaded_with_an_admin_key(
    client: triton.InferenceServerClient, admin: dict[str, str]
) -> None:
    with refused("UNAUTHENTICATED", "send an admin key"):
        client.unload_model("other")
    client.unload_model("other", headers=admin)
    index = {model.name: model for model in client.get_model_repository_index().models}
    assert (index["other"].state, index["other"].reason) == ("UNAVAILABLE", "unloaded")
    assert index[NAME].state == "READY"
    with refused("UNAVAILABLE", "other is not served: it is unloaded"):
        client.infer("other", [image(reference_network.images(224)[:1])])
    with refused("FAILED_PRECONDITION", "parameters are not supported"):
        client.load_model("other", headers=admin, config="{}")
    client.load_model("other", headers=admin)
    assert client.is_model_ready("other")
    with refused("NOT_FOUND", "there is no bundle called 'resnet' to load"):
        client.load_model("resnet", headers=admin)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"model_name": "resnet"}, "NOT_FOUND", "there is no model 'resnet'"),
        ({"model_version": "2"}, "NOT_FOUND", "has no version '2'"),
        ({"raw_input_contents": []}, "INVALID_ARGUMENT", "has no data"),
        ({"raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "has 2 tensors for 1 inputs"),
        ({"raw_input_contents": [b"abc"]}, "INVALID_ARGUMENT", "150528 elements, but the data has 3"),
        ({"inputs": []}, "INVALID_ARGUMENT", "raw_input_contents has 1 tensors for 0 inputs"),
        ({"id": "x" * 1001}, "INVALID_ARGUMENT", "id"),
    ],
)
def test_a_wrong_request_is_refused_with_a_reason(
    served: GrpcServer, change: dict[str, Any], code: str, message: str
) -> None:
    request = infer_request()
    for field, value in change.items():
        request.ClearField(field)
        request.MergeFrom(service_pb2.ModelInferRequest(**{field: value}))
    with stub_of(served.address) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    failure = failure_of(caught.value)
    assert (failure.code.name, failure.reason) == (code, "UnknownModel" if code == "NOT_FOUND" else "BadInference")
    assert message in failure.text


def test_shared_memory_and_more_inputs_are_refused(client: triton.InferenceServerClient) -> None:
    shared = triton.InferInput("image", [1, 224, 224, 3], "UINT8")
    shared.set_shared_memory("region", 150528)
    with refused("INVALID_ARGUMENT", "'image' cannot be in shared memory"):
        client.infer(NAME, [shared])
    with refused("UNIMPLEMENTED", ""):
        client.get_system_shared_memory_status()
    with refused("INVALID_ARGUMENT", "a request has one input"):
        client.infer(NAME, [image(reference_network.images(224)[:1]), files([JPEG])])


def test_a_file_that_is_no_image_is_told_apart(client: triton.InferenceServerClient) -> None:
    with refused("INVALID_ARGUMENT", "not an image|not in a supported format|image"):
        client.infer(NAME, [files([b"no image at all"])])


def test_more_images_or_bytes_than_allowed_are_refused(client: triton.InferenceServerClient) -> None:
    with refused("INVALID_ARGUMENT", "9 images are over the limit of 8"):
        client.infer(NAME, [files([JPEG] * 9)])
    with refused("RESOURCE_EXHAUSTED", "larger than max"):
        client.infer(NAME, [files([bytes(3_100_000)])])


def test_a_decoder_that_dies_is_replaced_beside_the_threads_of_grpc(
    client: triton.InferenceServerClient, served: GrpcServer
) -> None:
    before = client.infer(NAME, [files([JPEG])]).as_numpy("logits")
    (decoder,) = workers(served.http.pid, "decoder")
    os.kill(decoder, signal.SIGKILL)
    lost = 'crossvit_decoder_restarts_total{reason="ended"}'
    wait_until(lambda: lost in httpx.get(f"{served.http.url}/metrics").text)
    np.testing.assert_allclose(client.infer(NAME, [files([JPEG])]).as_numpy("logits"), before, atol=1e-5)


def test_the_example_of_the_documentation_runs_as_it_is_written(
    served: GrpcServer, tmp_path: Path, bundle: Path
) -> None:
    paths = [tmp_path / "photo.jpg", tmp_path / "picture.png"]
    for path, file in zip(paths, FILES, strict=False):
        path.write_bytes(file)
    script = Path(__file__).parents[3] / "docs" / "examples" / "grpc_client.py"
    command = [sys.executable, str(script), served.address, NAME, *map(str, paths)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(printed) == 6
    best = httpx.post(f"{served.http.url}/classify", files={"file": FILES[0]}, timeout=60).json()["predictions"][0]
    assert printed[0].startswith(f"{paths[0]}: {best['label']} ({best['index']}), logit ")
    assert best["label"] in [label.label for label in open_bundle(bundle).labels]


def test_a_stream_of_the_stock_client_is_answered_in_order(client: triton.InferenceServerClient) -> None:
    answered: Queue[tuple[Any, Any]] = Queue()
    client.start_stream(lambda result, error: answered.put((result, error)))
    pixels = reference_network.images(224)
    try:
        for index in range(len(pixels)):
            client.async_stream_infer(NAME, [image(pixels[index : index + 1])], request_id=str(index))
        client.async_stream_infer("resnet", [image(pixels[:1])], request_id="wrong")
        for index in range(len(pixels)):
            result, error = answered.get(timeout=60)
            assert error is None
            assert result.get_response().id == str(index)
            np.testing.assert_allclose(result.as_numpy("logits")[0], GOLDEN["logits_224"][index], atol=1e-5, rtol=0)
        result, error = answered.get(timeout=60)
        assert "there is no model 'resnet'" in str(error)
    finally:
        client.stop_stream()
