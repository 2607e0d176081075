"""Forms, paths, queries and headers of any shape."""

import random
import time
from urllib.parse import quote

import httpx
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.answers import assert_answered, words
from tests.fuzz.cases import JPEG, cases

breaks = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b"\r\n\r\n", b" "])
fragments = st.sampled_from([JPEG, JPEG[:200], b"--x", b"\r\n--x--", b"\r\n--x\r\n", bytes(70_000)])


@st.composite
def parts(draw: st.DrawFn) -> bytes:
    """A part of a form, more or less."""
    end = draw(breaks)
    quote = draw(st.sampled_from([b'"', b'"', b'"', b"", b"'"]))
    named = [b"name=" + quote + draw(words).encode() + quote, b"filename=" + quote + draw(words).encode() + quote]
    options = draw(st.sampled_from([named, named, named[:1], named[1:], [], 3 * named]))
    disposition = b"; ".join([b"form-data", *options])
    headers = [
        b"Content-Disposition: " + disposition,
        b"Content-Type: " + draw(st.sampled_from([b"image/png", b"", b"multipart/mixed; boundary=x", b"text/plain"])),
        b"Content-Transfer-Encoding: base64",
        b"X: " + bytes(3000),
        draw(st.binary(max_size=20)),
    ]
    chosen = headers[:1] * draw(st.sampled_from([1, 1, 1, 0, 2])) + draw(st.lists(st.sampled_from(headers), max_size=2))
    return end.join(
        [b"--x", *chosen, draw(st.sampled_from([b"", b"", b"\0"])), draw(st.binary(max_size=30) | fragments), b""]
    )


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """A path, a Content-Type, and a form, more or less."""
    boundaries = [b"x", b"x", b"x", b'"x"', b"", b"y", b"x" * 5000, b"\xff", b"x; boundary=y", b'"x']
    charsets = [b"utf-8", b"undefined", b"idna", b"hex", b"\xff", b"nothing"]
    chosen = st.sampled_from([*boundaries, *(b"x; charset=" + charset for charset in charsets)])
    kind = b"multipart/form-data; boundary=" + draw(chosen)
    last = draw(st.sampled_from([b"--x--\r\n", b"--x--", b"--x--\r\n", b"", b"--x", b"--x-", bytes(300)]))
    body = draw(st.sampled_from([b"", b"", b"preamble\r\n"])) + b"".join(draw(st.lists(parts(), max_size=4))) + last
    return draw(st.sampled_from(["/classify", "/classify/batch", "/explain", "/embed"])), kind, body


@cases(350)
@given(form=forms())
def test_forms_of_any_shape_are_answered(client: httpx.Client, form: tuple[str, bytes, bytes]) -> None:
    path, kind, body = form
    assert_answered(client.post(path, content=body, headers={b"Content-Type": kind}))


def test_a_charset_cannot_hold_up_the_service(client: httpx.Client) -> None:
    rng = random.Random(0)  # noqa: S311
    text = bytes(rng.choices(b"abcdefghij", k=300_000))
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\na-' + text + b"\r\n--x--\r\n"
    started = time.monotonic()
    for charset in ("punycode", "idna", "undefined"):
        headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
        answer = client.post("/classify", content=body, headers=headers)
        assert answer.status_code == 400
        assert "charset" in answer.json()["detail"]
    assert time.monotonic() - started < 30  # some charsets of Python take minutes


escapes = st.sampled_from(
    ["%00", "%ff", "%ed%a0%80", "%zz", "%", "%2e%2e%2f", "%0d%0aX:%201", "+", "&", ";", "=", "[]"]
)
odd_numbers = st.sampled_from(["1e9", "NaN", "0x10", "9" * 5000, "-0", "1.5", "224", "384", "٣", " 5 "])
values = st.lists(st.one_of(escapes, odd_numbers, st.integers().map(str), words, st.text(max_size=5)), max_size=3).map(
    "".join
)
NAMES = ["top_k", "resolution", "model", "coverage", "details", "deep", "top_k[]", "TOP_K", "", "__proto__"]
INSPECTION_NAMES = ["class", "branch", "map", "opacity", "normalize", "class_"]
names = st.sampled_from([*NAMES, *INSPECTION_NAMES]) | values
methods = st.sampled_from([*2 * ("GET", "POST"), "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND"])
PLACES = [
    *("/classify", "/classify/batch", "/models", "/readyz", "/livez", "/metrics", "/admin/reload", "/docs"),
    *("/v2", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index", "/v2/repository/models/{}/load"),
    *("/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/infer", "/v2/models/{}/versions/{}/stats"),
    *("/explain", "/explain", "/embed", "/v1/embeddings", "/v1/{}"),
    *("/{}", "/classify/{}", "/v2/{}", "/openapi.json", "/static-offline-docs/{}"),
]
HEADERS = [
    *(b"X-Request-ID", b"X-Request-Timeout-Ms", b"Authorization", b"X-API-Key", b"Accept", b"Accept-Encoding"),
    *(b"Content-Type", b"Content-Encoding", b"Inference-Header-Content-Length", b"Cookie", b"Range", b"Origin"),
    *(b"X-Forwarded-For", b"X-Forwarded-Host", b"traceparent", b"If-None-Match", b"X-HTTP-Method-Override"),
]
SAID = [
    *(b"0", b"-1", b"99999999999999", b"5000", b"\xff\xfe", b"\xb2", b"Bearer \xe4", b"gzip;q=2,*;q=x", b"x" * 9000),
    *(
        b"image/png",
        b"image/*;q=.5,*/*;q=",
        b"multipart/form-data",
        b"gzip",
        b"deflate",
        b"bytes=0-",
        b",",
        b"text/plain",
        b"00",
    ),
]
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)


@cases(500)
@given(
    method=methods,
    path=st.builds(str.format, st.sampled_from(PLACES), values, values),
    query=st.lists(st.tuples(names, values).map("=".join), max_size=4).map("&".join),
    headers=st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(SAID) | printable, max_size=4),
    body=st.sampled_from([b"", b"", JPEG, b"{}", b'{"ready": true}', b"\x1f\x8b\x08\0"]),
)
def test_requests_of_any_path_query_and_headers_are_answered(
    client: httpx.Client, method: str, path: str, query: str, headers: dict[bytes, bytes], body: bytes
) -> None:
    as_sent = quote(f"{path}?{query}", safe="%/?&=+;:@!$'()*,[]~")  # what httpx would refuse goes by socket, below
    url = client.base_url.copy_with(raw_path=as_sent.encode())
    response = client.request(method, url, headers=headers, content=body)
    if method != "HEAD":
        assert_answered(response)
