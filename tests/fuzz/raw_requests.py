"""Bytes that may be HTTP requests."""

import random

from tests.fuzz.cases import JPEG
from tests.fuzz.image_mutations import flip_bits

INFER = "/v2/models/crossvit_tiny/infer"
METHODS = [
    b"GET",
    b"POST",
    b"HEAD",
    b"OPTIONS",
    b"PUT",
    b"CONNECT",
    b"TRACE",
    b"PRI",
    b"M-SEARCH",
    b"get",
    b"",
    b"\xff",
    b"G T",
]
TARGETS = [
    b"/livez",
    b"/classify",
    INFER.encode(),
    b"/%00%ff%zz",
    b"/\xff",
    b"*",
    b"http://other.example/livez",
    b"other.example:443",
]
TARGETS += [
    b"//livez",
    b"/livez/",
    b"/../livez",
    b"/livez#a",
    b"/readyz?model=%ed%a0%80",
    b"/" + 3000 * b"a",
    b"",
    b"/a b",
    b"/\0",
]
VERSIONS = [*30 * [b"HTTP/1.1"], b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"", b"HTTP/1.1 "]
LINES = [
    b"Host: service",
    b"Host: other",
    b"Host: [::1",
    b"Connection: keep-alive",
    b"Connection: close, Upgrade",
    b"Upgrade: websocket",
]
LINES += [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]
LINES += [
    b"Expect: 100-continue",
    b"Expect: nothing",
    b"X: \0",
    b"X: \xff\xfe",
    b": none",
    b" folded",
    b"X",
    b"X:\x0b1",
    b"X: a\rb",
]
LINES += [b"Content-Type: image/png", b"Content-Type: multipart/form-data; boundary=x", b"Content-Encoding: gzip"]
LINES += [
    b"X: " + 9000 * b"x",
    300 * b"X-A: b\r\n" + b"X-A: b",
    b"X-Request-ID: \xe4\"'<>",
    b"Trailer: X",
    b"TE: trailers, deflate",
]
LENGTHS = [
    b"0",
    b"5",
    b"+5",
    b"-1",
    b"0x5",
    b"5, 5",
    b"5,6",
    b" 5 ",
    b"5_0",
    b"\xb2",
    b"99999999999999999999999",
    b"99999999",
    b"",
]
ENCODINGS = [
    b"chunked",
    b"Chunked",
    b" chunked",
    b"chunked, chunked",
    b"identity",
    b"gzip, chunked",
    b"chunked, gzip",
    b"xchunked",
    b"",
]
ENCODINGS += [b"chunked\x0b", b'"chunked"', b"chunked;q=1", b"\r\n chunked"]
CHUNKS = [
    b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"05\r\nhello\r\n",
    b"5\r\nhello",
    b"5\nhello\n",
    b"zz\r\nhello\r\n",
    b"-1\r\nx\r\n",
]
CHUNKS += [
    b"ffffffffffffffffff\r\nx\r\n",
    b"0x5\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"\r\n",
    b"2\r\nhello\r\n",
    b"7fffffff\r\nx",
    b"0\r\n\r\n",
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: service\r\n\r\n"


def raw_request(number: int) -> bytes:
    """What may be a request, or several; `number` says which."""
    rng = random.Random(number)  # noqa: S311
    first = [
        rng.choice([b"GET", b"GET", b"POST", b"POST", rng.choice(METHODS)]),
        rng.choice([b"/livez", b"/classify", rng.choice(TARGETS)]),
        rng.choice(VERSIONS),
    ]
    lines = [b" ".join(first), b"Host: service", *rng.sample(LINES, k=rng.choice([0, 0, 0, 1, 1, 3]))]
    chunks = b"".join(rng.choices(CHUNKS, k=rng.randrange(4))) + rng.choice([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""])
    if rng.random() < 0.4:
        lines += [b"Content-Length" + rng.choice([b": ", b": ", b" : ", b":"]) + rng.choice(LENGTHS)]
    if rng.random() < 0.3:
        lines += [b"Transfer-Encoding" + rng.choice([b": ", b": ", b" : ", b"\t:"]) + rng.choice(ENCODINGS)]
    end = rng.choice([*20 * [b"\r\n"], b"\n", b"\r"])
    body = rng.choice([chunks, b"hello", b"", b"", JPEG, SMUGGLED, rng.randbytes(50)])
    request = end.join([*lines, b"", b""]) + body + rng.choice([b"", SMUGGLED])
    return flip_bits(rng, request, []) if rng.random() < 0.2 else request
