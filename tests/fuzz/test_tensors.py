"""Requests of the Open Inference Protocol, and of OpenAI's embeddings, of any shape."""

import base64
import json
import zlib
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from app.decoding.oip_tensors import CHARSETS
from tests.fuzz.answers import assert_answered
from tests.fuzz.cases import JPEG, cases
from tests.fuzz.raw_requests import INFER

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([0, 1, 3, 224, 1 << 31, 1 << 64, 1e308, "image", "encoded", "UINT8", "BYTES", "logits", "\ud800"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
parameters = st.dictionaries(
    st.sampled_from(
        [
            "binary_data_size",
            "binary_data",
            "classification",
            "resolution",
            "binary_data_output",
            "shared_memory_region",
        ]
    ),
    scalars | st.sampled_from([4, 8, -1, True, 5]),
    max_size=3,
)


tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "encoded"]) | scalars,
        "shape": st.sampled_from([[1], [1, 1], [0], [1, 2, 2, 3], [1, 224, 224, 3], [1 << 31] * 4]) | anything,
        "datatype": st.sampled_from(["BYTES", "UINT8"]) | scalars,
    },
    optional={
        "parameters": parameters | anything,
        "data": st.sampled_from([["AAAA"], [12 * [0]], [[[[1, 2, 3]] * 2] * 2], "AAAA", 150528 * [7]]) | anything,
    },
)
output_names = st.sampled_from(["logits", "embedding", "probabilities"]) | scalars
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=2) | anything},
    optional={
        "id": scalars,
        "parameters": parameters | anything,
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["logits", "embedding", "probabilities"]) | scalars},
                optional={"parameters": parameters},
            ),
            max_size=3,
        )
        | anything,
    },
)


@cases(350)
@given(
    request=requests | anything,
    tail=st.binary(max_size=20),
    json_bytes=st.sampled_from([None, None, "exact", "0", "1", "-1", "99999999999", "99999999", "٣", ""]),
    encoding=st.sampled_from([None, None, None, "gzip", "deflate", "br", "gzip, gzip", "identity"]),
    packed=st.booleans(),
    cut=st.sampled_from([0, 0, 0, 1, 10]),
)
def test_tensors_of_any_shape_are_answered(
    client: httpx.Client,
    request: Any,
    tail: bytes,
    json_bytes: str | None,
    encoding: str | None,
    packed: bool,
    cut: int,
) -> None:
    text = json.dumps(request).encode()
    body = text + (tail if json_bytes else b"")
    headers = {"Content-Type": "application/json"}
    if json_bytes is not None:
        length = str(len(text)) if json_bytes == "exact" else json_bytes
        headers["Inference-Header-Content-Length"] = length
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        body = zlib.compress(body, wbits=31 if encoding == "gzip" else 15) if packed else body
    sent = {name.encode(): value.encode() for name, value in headers.items()}
    response = client.post(INFER, content=body[: len(body) - cut], headers=sent)
    assert_answered(response)


IMAGE = f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
inputs = st.sampled_from([IMAGE, IMAGE[:2000], "data:,x", "data:image/png;base64,AAAA", "AAAA", {"image": IMAGE}, ""])
embeddings = st.fixed_dictionaries(
    {"input": inputs | st.lists(inputs | anything, max_size=4) | anything},
    optional={
        "model": st.sampled_from(["crossvit_tiny", ""]) | scalars,
        "encoding_format": st.sampled_from(["float", "base64"]) | scalars,
        "dimensions": scalars,
        "user": anything,
    },
)


@cases(250)
@given(request=embeddings | anything, cut=st.sampled_from([0, 0, 0, 1, 10]), charset=st.sampled_from(CHARSETS))
def test_embeddings_of_anything_are_answered(client: httpx.Client, request: Any, cut: int, charset: str) -> None:
    body = json.dumps(request).encode(charset)
    assert_answered(client.post("/v1/embeddings", content=body[: len(body) - cut]))
