"""POST /classify and /classify/batch at a real server."""

import asyncio
import base64
import gzip
import re
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.decoding.image_decoding import decode
from app.engines.cpu.onnxruntime_engine import OnnxRuntimeEngine
from bundle.reader import open_bundle
from bundle.scores import best_classes
from tests.support import reference_network
from tests.support.pictures import JPEG, encoded, scene
from tests.support.problems import assert_problem
from tests.support.servers import Server
from tests.support.waiting import wait_until

GOLDEN = np.load(reference_network.GOLDEN / "crossvit_tiny.npz")


def post(client: httpx.Client, body: bytes = JPEG, **query: Any) -> httpx.Response:
    return client.post("/classify", params=query, files={"file": ("photo.jpg", body)})


def test_the_answer_has_the_documented_form(client: httpx.Client, bundle: Path) -> None:
    response = post(client)
    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {"predictions", "model", "timing_ms", "request_id"}
    assert [prediction["rank"] for prediction in answer["predictions"]] == [1, 2, 3, 4, 5]
    scores = [prediction["score"] for prediction in answer["predictions"]]
    assert scores == sorted(scores, reverse=True)
    labels = open_bundle(bundle).labels
    for prediction in answer["predictions"]:
        label = labels[prediction["index"]]
        assert (prediction["wnid"], prediction["label"]) == (label.wnid, label.label)
    assert answer["model"] == {
        "name": "crossvit_tiny",
        "resolution": 224,
        "engine": "onnxruntime",
        "precision": "f32",
        "weights": open_bundle(bundle).manifest.weights.id,
        "weights_source": "crossvit_tiny.safetensors",
        "calibrated": False,
    }
    timing = answer["timing_ms"]
    assert 0 < timing["decode"] + timing["queue"] + timing["inference"] <= timing["total"]
    assert answer["request_id"] == response.headers["X-Request-ID"]


def test_logits_through_http_are_the_reference_logits(client: httpx.Client) -> None:
    """At 480 an image of that side is served as it is; scores tell logits but for a constant."""
    for image, reference in zip(reference_network.images(480), GOLDEN["logits_480"], strict=True):
        answer = post(client, encoded(Image.fromarray(image)), resolution=480, top_k=50).json()
        indices = [prediction["index"] for prediction in answer["predictions"]]
        logits = np.log([prediction["score"] for prediction in answer["predictions"]])
        assert indices == list(np.argsort(-reference)[:50])
        expected = reference[indices] - np.log(np.exp(reference).sum())
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_a_jpeg_at_224_is_answered_as_the_graph_answers_its_pixels(client: httpx.Client, bundle: Path) -> None:
    opened = open_bundle(bundle)
    engine = OnnxRuntimeEngine((bundle / "model.onnx").read_bytes)
    engine.load(224)
    pixels = decode(JPEG, opened.manifest.preprocessing[224], 10**9)
    expected = best_classes(engine.run(pixels[np.newaxis])[0][0], 5)
    answer = post(client).json()["predictions"]
    assert [prediction["index"] for prediction in answer] == [index for index, _ in expected]
    np.testing.assert_allclose(
        [prediction["score"] for prediction in answer], [score for _, score in expected], rtol=1e-4
    )


@pytest.mark.parametrize(
    "content_type",
    [
        *("image/jpeg", "image/png", "image/jpg", "application/octet-stream", "IMAGE/JPEG; q=1", None),
        *("binary/octet-stream", "application/x-www-form-urlencoded", "text/plain; charset=utf-8", "", "junk", ";"),
        *("application/json", "multipart/mixed; boundary=x", "multipart/related", "message/rfc822", "*/*"),
    ],
)
def test_the_body_itself_can_be_the_image(client: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = client.post("/classify", content=JPEG, headers=headers).json()
    assert answer["predictions"] == post(client).json()["predictions"]


def test_a_chunked_body_is_read_whole(client: httpx.Client) -> None:
    chunks = iter([JPEG[:1000], JPEG[1000:2000], JPEG[2000:]])
    assert client.post("/classify", content=chunks, headers={"Content-Type": "image/jpeg"}).status_code == 200


def test_form_fields_beside_the_file_do_no_harm(client: httpx.Client) -> None:
    assert client.post("/classify", files={"file": JPEG}, data={"note": "x"}).status_code == 200


def test_options_in_the_form_are_those_of_the_query(client: httpx.Client) -> None:
    asked = {"top_k": "2", "model": "crossvit_tiny"}
    for field, path in (("file", "/classify"), ("files", "/classify/batch")):
        in_form = client.post(path, files={field: JPEG}, data=asked)
        in_query = client.post(path, files={field: JPEG}, params=asked)
        in_both = client.post(path, files={field: JPEG}, data=asked, params=asked)
        for answer in (in_form.json(), in_query.json(), in_both.json()):
            predictions = answer.get("predictions") or answer["results"][0]["predictions"]
            assert len(predictions) == 2
    answer = client.post("/classify", files={"file": JPEG}, data={"resolution": "384"}).json()
    assert answer["model"]["resolution"] == 384


def test_an_empty_option_counts_as_left_out_in_the_form_and_in_the_query(client: httpx.Client) -> None:
    empty = {"top_k": "", "resolution": "", "model": ""}
    for field, path in (("file", "/classify"), ("files", "/classify/batch")):
        for asked in ({"data": empty}, {"params": empty}, {"data": empty, "params": {"top_k": 2}}):
            answer = client.post(path, files={field: JPEG}, **asked)
            assert answer.status_code == 200, answer.text


def test_an_input_in_which_no_file_was_chosen_is_passed_over(client: httpx.Client) -> None:
    head = '--x\r\nContent-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for path in ("/classify", "/classify/batch"):
        unchosen = head.format("file", "").encode() + b"\r\n"
        chosen = head.format("file", "a.jpg").encode() + JPEG + b"\r\n"
        for parts in (unchosen + chosen, chosen + unchosen):
            assert client.post(path, content=parts + b"--x--", headers=headers).status_code == 200
        assert_problem(client.post(path, content=unchosen + b"--x--", headers=headers), 400, "no file was chosen")


def test_a_compressed_file_in_a_form_is_refused_with_advice(client: httpx.Client) -> None:
    packed = gzip.compress(JPEG)
    assert_problem(client.post("/classify", files={"file": packed}), 415, "gzip data: unpack it first")
    answer = client.post("/classify/batch", files={"files": packed}).json()
    assert "gzip data: unpack it first" in answer["results"][0]["problem"]["detail"]
    assert_problem(client.post("/classify", content=packed), 415, "say so with Content-Encoding: gzip")
    twice = client.post("/classify", content=gzip.compress(packed), headers={"Content-Encoding": "gzip"})
    assert_problem(twice, 415, "gzip data: unpack it first")


@pytest.mark.parametrize(
    ("query", "form", "status", "detail"),
    [
        ({}, {"top_k": "0"}, 422, "invalid top_k='0': top_k is how many classes to return, from 1 to 50"),
        ({}, {"resolution": "x"}, 422, "invalid resolution='x': "),
        ({}, {"resolution": "225"}, 422, "resolution 225 is not served; one of 224, 384, 480"),
        ({}, {"model": "resnet"}, 404, "there is no model 'resnet'"),
        ({}, {"topk": "2"}, 422, "unknown field 'topk' in the form; did you mean 'top_k'?"),
        ({"top_k": 3}, {"top_k": "2"}, 422, "top_k differs in the query and in the form: send it once"),
    ],
)
def test_options_in_the_form_that_cannot_be_are_refused(
    client: httpx.Client, query: dict[str, Any], form: dict[str, str], status: int, detail: str
) -> None:
    for field, path in (("file", "/classify"), ("files", "/classify/batch")):
        assert_problem(client.post(path, files={field: JPEG}, data=form, params=query), status, detail)


def test_a_file_in_another_field_is_named(client: httpx.Client) -> None:
    for path in ("/classify", "/classify/batch"):
        answer = client.post(path, files={"image": JPEG})
        assert_problem(answer, 400, "but in 'image'; send the image")
    assert_problem(client.post("/classify/batch", content=JPEG), 400, "is not multipart/form-data; send the images as")


NAMES = ["b\u00fccher.jpg", "\u20ac \u2603.jpg", 'a"b.jpg', "\x1b[31mred\r\n.jpg", 400 * "x", "", "../../etc/passwd"]


def test_files_keep_their_names_whatever_they_are(client: httpx.Client, server: Server) -> None:
    answer = client.post("/classify/batch", files=[("files", (name, JPEG)) for name in NAMES if name])
    assert [result["filename"] for result in answer.json()["results"]] == [name for name in NAMES if name]
    assert "\x1b" not in answer.text
    assert "\x1b" not in server.log_text()
    for size in (len(JPEG), 2_000_000):
        quoted = "UTF-8''b%C3%BCcher.jpg"
        for field, path in (("file", "/classify"), ("files", "/classify/batch")):
            part = f"--x\r\nContent-Disposition: form-data; name={field}; filename*={quoted}\r\n\r\n".encode()
            body = part + JPEG.ljust(size, b"\0") + b"\r\n--x--\r\n"
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            answer = client.post(path, content=body, headers=headers)
            assert answer.status_code == 200
            assert path == "/classify" or answer.json()["results"][0]["filename"] == "b\u00fccher.jpg"


@pytest.mark.parametrize(
    "coding",
    ["gzip", "x-gzip", "GZIP", "gzip, identity", "deflate", "identity", "", "br", "aws-chunked", "aws-chunked,gzip"],
)
def test_a_body_may_be_coded_or_only_be_said_to_be(client: httpx.Client, coding: str) -> None:
    request = httpx.Request("POST", "http://x", files={"file": JPEG})
    form, kind = request.read(), request.headers["Content-Type"]
    pack = gzip.compress if "gzip" in coding.lower() else zlib.compress if coding == "deflate" else bytes
    for body, headers in ((JPEG, {}), (form, {"Content-Type": kind})):
        for sent in (body, pack(body)):
            answer = client.post("/classify", content=sent, headers=headers | {"Content-Encoding": coding})
            assert answer.status_code == 200
            assert answer.json()["predictions"] == post(client).json()["predictions"]


def test_an_unsupported_coding_is_415_and_names_the_supported_ones(client: httpx.Client) -> None:
    for path in ("/classify", "/v2/models/crossvit_tiny/infer", "/v2/repository/index"):
        refused = client.post(path, content=b"\x0b\x02\x80brotli", headers={"Content-Encoding": "br"})
        assert refused.status_code == 415
        assert "the Content-Encoding 'br' is not supported: use gzip or deflate" in refused.text
        assert refused.headers["Accept-Encoding"] == "gzip, deflate, identity"
        bomb = client.post(path, content=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"})
        assert bomb.status_code == 413
        assert "after decompression" in bomb.text


@pytest.mark.parametrize("top_k", [1, 50])
def test_top_k(client: httpx.Client, top_k: int) -> None:
    assert len(post(client, top_k=top_k).json()["predictions"]) == top_k


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"top_k": 0}, "invalid top_k='0': top_k is how many classes to return, from 1 to 50"),
        ({"top_k": 51}, "from 1 to 50"),
        ({"top_k": "many"}, "invalid top_k='many': "),
        ({"resolution": 225}, "resolution 225 is not served; one of 224, 384, 480"),
        ({"resolution": "x"}, "invalid resolution='x': "),
        ({"topk": 3}, "unknown parameter 'topk'; the parameters are model, top_k, resolution"),
    ],
)
def test_a_bad_parameter_is_422(client: httpx.Client, query: dict[str, Any], detail: str) -> None:
    assert_problem(post(client, **query), 422, detail)


def test_the_model_can_be_named_and_an_unknown_one_is_404(client: httpx.Client) -> None:
    assert post(client, model="crossvit_tiny").status_code == 200
    assert_problem(post(client, model="resnet"), 404, "there is no model 'resnet'")


@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"other": JPEG}},
        {"data": {"file": "text"}, "files": {"x": b""}},
        {"files": {"file": b""}},
        {"files": [("file", JPEG), ("file", JPEG)]},
        {"content": b""},
        {"content": b"", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"--x\r\n\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ],
    ids=["other field", "text field", "empty file", "two files", "empty", "no boundary", "no multipart", "cut off"],
)
def test_no_image_is_400(client: httpx.Client, request_: dict[str, Any]) -> None:
    assert_problem(client.post("/classify", **request_), 400, "send the image as multipart field 'file'")


def test_a_body_over_the_limit_is_413(client: httpx.Client) -> None:
    large = JPEG + bytes(10_000_000)
    assert_problem(post(client, large), 413, "over the limit of 10,000,000 bytes")
    headers = {"Content-Type": "image/jpeg"}
    assert_problem(client.post("/classify", content=large, headers=headers), 413, "over the limit")


def test_a_body_without_end_is_answered_and_not_buffered(server: Server) -> None:
    def resident() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])

    before = resident()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(1600):
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        assert b"413 Request Entity Too Large" in connection.recv(1000)
    assert resident() < before + 40_000_000  # of 100 MB


def test_too_many_pixels_is_413(client: httpx.Client) -> None:
    assert_problem(post(client, encoded(Image.new("1", (8000, 8000)))), 413, "8000 x 8000 pixels, over the limit")


@pytest.mark.parametrize(
    ("body", "detail"),
    [(b"hello", "not a JPEG, PNG, WebP, GIF, BMP, AVIF or ICO"), (b"%PDF-1.7 ...", "the image is PDF, which is not")],
)
def test_a_file_that_is_no_image_is_415(client: httpx.Client, body: bytes, detail: str) -> None:
    assert_problem(post(client, body), 415, detail)


@pytest.mark.parametrize(
    ("content_type", "body", "detail"),
    [
        (
            "application/json",
            b'{"url": "https://example.org/cat.jpg"}',
            "the bytes are JSON, not an image; it came with the Content-Type 'application/json'",
        ),
        ("application/x-www-form-urlencoded", b"file=@photo.jpg", "not an image but an urlencoded form"),
        ("application/x-www-form-urlencoded", b"\x89PNG\x1a", "curl sends a file unchanged with --data-binary"),
        ("text/plain", base64.b64encode(JPEG), "the bytes are text in base64: decode it first"),
        ("text/plain", b"hello", "it came with the Content-Type 'text/plain'"),
        (
            "multipart/mixed; boundary=x",
            b"--x\r\nContent-Type: image/png\r\n\r\n",
            "(multipart/mixed; boundary=x) is not an image",
        ),
        ("", b"--x\r\nContent-Disposition: form-data\r\n\r\n", "a form whose Content-Type does not say so"),
        ("image/jpeg", gzip.compress(JPEG), "not an image but gzip data: say so with Content-Encoding: gzip"),
    ],
)
def test_a_body_that_is_no_image_is_called_what_it_is(
    client: httpx.Client, content_type: str, body: bytes, detail: str
) -> None:
    response = client.post("/classify", content=body, headers={"Content-Type": content_type})
    assert_problem(response, 415, detail)
    assert response.json()["reason"] == "NotAnImage"


def test_a_broken_image_is_422(client: httpx.Client) -> None:
    assert_problem(post(client, JPEG[: len(JPEG) // 2]), 422, "the JPEG image is incomplete: the file ends")


def test_a_clients_request_id_is_kept_if_it_is_a_sane_one(client: httpx.Client) -> None:
    headers = {"X-Request-ID": "trace-1/2"}
    response = client.post("/classify", files={"file": JPEG}, headers=headers)
    assert response.json()["request_id"] == response.headers["X-Request-ID"] == "trace-1/2"
    other = client.get("/livez", headers={"X-Request-ID": "a b\tc"}).headers["X-Request-ID"]
    assert len(other) == 32


def test_concurrent_requests_share_engine_calls_and_get_their_own_answers(client: httpx.Client) -> None:
    bodies = [encoded(scene(300, 300, seed)) for seed in range(24)]
    alone = [post(client, body).json() for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: post(client, body).json(), bodies))
    for one, other in zip(alone, together, strict=True):
        assert [p["index"] for p in one["predictions"]] == [p["index"] for p in other["predictions"]]
    assert len({answer["predictions"][0]["score"] for answer in together}) == len(bodies)
    calls = {answer["timing_ms"]["inference"] for answer in together}
    assert len(calls) < len(bodies)  # those of one call report the same time


def test_requests_of_clients_that_left_are_not_worked_on(client: httpx.Client, server: Server) -> None:
    alone = min(post(client, resolution=480).json()["timing_ms"]["inference"] for _ in range(3))

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as leaving:
            requests = [
                asyncio.create_task(leaving.post("/classify?resolution=480", files={"file": JPEG})) for _ in range(40)
            ]
            await asyncio.sleep(0.5)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    asyncio.run(leave())
    # The first may come before the service has seen all of them leave, and be refused for what waits.
    timing = wait_until(lambda: post(client, resolution=480).json().get("timing_ms"), 10)
    assert timing["queue"] < 20 * alone  # at most the batch under way, not the 40
    assert "Traceback" not in server.log_text()
