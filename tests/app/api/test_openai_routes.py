"""POST /v1/embeddings of a real server, asked as clients of OpenAI's API ask."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.pictures import JPEG, encoded, scene
from tests.support.reference_network import TINY

PNG = encoded(scene(300, 280))


def data_url(body: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(body).decode()}"


def post(client: httpx.Client, **request: Any) -> httpx.Response:
    return client.post("/v1/embeddings", json=request)


def test_images_are_embedded_in_their_order(client: httpx.Client) -> None:
    response = post(client, input=[data_url(JPEG), data_url(PNG, "image/png")], model=TINY.name, user="ann")
    answer = response.json()
    assert response.status_code == 200, answer
    assert answer.keys() == {"object", "data", "model", "usage"}
    assert (answer["object"], answer["model"]) == ("list", TINY.name)
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    for item, body in zip(answer["data"], (JPEG, PNG), strict=True):
        alone = client.post("/embed", content=body, params={"normalize": "true"}).json()["embedding"]
        np.testing.assert_allclose(item["embedding"], alone, atol=1e-5)


@pytest.mark.parametrize("form", [data_url(JPEG), [data_url(JPEG)], [{"image": data_url(JPEG)}]])
def test_one_image_may_be_a_text_or_in_a_list(client: httpx.Client, form: Any) -> None:
    response = post(client, input=form)
    assert response.status_code == 200, response.text
    assert len(response.json()["data"]) == 1


def test_base64_has_the_same_numbers(client: httpx.Client) -> None:
    numbers = post(client, input=data_url(JPEG)).json()["data"][0]["embedding"]
    text = post(client, input=data_url(JPEG), encoding_format="base64").json()["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(text), "<f4")
    assert len(decoded) == sum(TINY.dims)
    np.testing.assert_allclose(decoded, numbers, atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "status", "code", "message"),
    [
        ({}, 400, "BadInference", "input is missing: it must be an image as a data URL"),
        ({"input": None}, 400, "BadInference", "input is missing"),
        ({"input": []}, 400, "BadInference", "input is an empty list: it must be an image as a data URL"),
        ({"input": "the quick brown fox"}, 400, "BadInference", "input is a text, and this network embeds images"),
        ({"input": "hello"}, 400, "BadInference", "input is a text, and this network embeds images: input must be an"),
        ({"input": [1, 2, 3]}, 400, "BadInference", "this is a number"),
        ({"input": "https://example.org/cat.jpg"}, 400, "BadInference", "the service fetches no URLs"),
        ({"input": data_url(JPEG), "dimensions": 256}, 400, "BadInference", "dimensions must be left out"),
        ({"input": data_url(JPEG), "encoding_format": "int8"}, 400, "BadInference", "encoding_format"),
        ({"input": data_url(JPEG), "model": "text-embedding-3-small"}, 404, "UnknownModel", "there is no model"),
        ({"input": data_url(b"no image")}, 415, "NotAnImage", "not a JPEG"),
        ({"input": [data_url(JPEG), data_url(PNG[:999])]}, 422, "BadImage", "incomplete"),
        ({"input": [data_url(PNG[:40])] * 33}, 413, "TooLarge", "33 images are over the limit of 32"),
    ],
)
def test_errors_have_openais_form(
    client: httpx.Client, request_: dict[str, Any], status: int, code: str, message: str
) -> None:
    response = post(client, **request_)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"input": [data_url(JPEG), data_url(PNG[:999])]}, "input[1]"),
        ({"input": [data_url(JPEG), data_url(JPEG), data_url(b"no image")]}, "input[2]"),
        ({"input": [data_url(JPEG), "hello"]}, "input[1]"),
        ({"input": data_url(PNG[:999])}, "input"),
        ({}, "input"),
        ({"input": data_url(JPEG), "encoding_format": "int8"}, "encoding_format"),
        ({"input": data_url(JPEG), "dimensions": 256}, "dimensions"),
        ({"input": data_url(JPEG), "model": "no such"}, None),
    ],
)
def test_errors_name_what_they_are_about(client: httpx.Client, request_: dict[str, Any], param: str | None) -> None:
    error = post(client, **request_).json()["error"]
    assert error["param"] == param
    assert param is None or error["message"].startswith(param)


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ({"files": {"input": JPEG}}, "a multipart form"),
        ({"data": {"input": "hello", "model": "x"}}, "an urlencoded form"),
        ({"content": JPEG}, "an image file"),
    ],
)
def test_what_is_sent_in_another_form_has_the_advice_of_this_route(
    client: httpx.Client, sent: dict[str, Any], kind: str
) -> None:
    response = client.post("/v1/embeddings", **sent)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        f'the request is {kind}, and this route takes JSON: {{"input": "data:image/jpeg;base64,…"}}'
    )


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b"[" * 100_000, JPEG])
def test_what_is_no_json_is_refused(client: httpx.Client, body: bytes) -> None:
    response = client.post("/v1/embeddings", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "BadInference"


def test_other_paths_and_methods_have_openais_form_too(client: httpx.Client) -> None:
    assert client.get("/v1/embeddings").json()["error"]["code"] == "MethodNotAllowed"
    assert client.post("/v1/chat/completions").json()["error"]["code"] == "NotFound"
