import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.content_coding import ContentDecoder
from app.errors import BadBody, UnknownCoding

JSON = b'{"inputs": [' + b"1, " * 5000 + b"1]}"
BYTES = bytes(range(256)) * 300
PLAIN = [
    b"\xff\xd8\xff\xe0" + BYTES,
    b"\x89PNG\r\n\x1a\n" + BYTES,
    b"RIFF\x00\x00\x00\x00WEBP" + BYTES,
    b"GIF89a" + BYTES,
    b"BM" + BYTES,
    JSON,
    b"\r\n [1]",
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"--x\r\nContent-Disposition: form-data",
]
OTHER_FORMATS = [  # neither an image of a supported format nor compressed data
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + BYTES,
    b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + BYTES,
    b"II*\x00\x08\0\0\0" + BYTES,
    b"\n<!DOCTYPE html><html>" + BYTES,
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"%PDF-1.7\n" + BYTES,
    bytes(128) + b"DICM" + BYTES,
    b"PK\3\4" + BYTES,
]


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def decoded(body: bytes, header: str, size: int = 1 << 16) -> bytes:
    """The decoded `body`, fed in pieces of `size` bytes."""
    decoder = ContentDecoder(header)
    pieces = [piece for start in range(0, len(body), size) for piece in decoder.feed(body[start : start + size])]
    return b"".join([*pieces, *decoder.finish()])


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize(
    ("header", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("gzip, identity", gzip.compress),
        ("identity,gzip", gzip.compress),
        (" gzip ,", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("gzip,aws-chunked", gzip.compress),
        ("aws-chunked, gzip", gzip.compress),
        ("UTF-8,gzip", gzip.compress),
        ("gzip, binary", gzip.compress),
        ("deflate, aws-chunked", zlib.compress),
        ("deflate", gzip.compress),
        ("gzip", zlib.compress),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_a_body_is_decoded_however_it_is_cut(header: str, pack: Callable[[bytes], bytes], size: int) -> None:
    for body in (JSON, BYTES, b"x"):
        assert decoded(pack(body), header, size) == body


@pytest.mark.parametrize(
    "header", ["gzip", "deflate", "br", "aws-chunked", "zstd", "utf-8", "gzip, gzip, gzip", "base64"]
)
def test_a_body_of_a_known_format_is_left_unchanged_whatever_its_coding_says(header: str) -> None:
    for body in (*PLAIN, *OTHER_FORMATS):
        for size in (1, 1 << 20):
            assert decoded(body, header, size) == body


@pytest.mark.parametrize("header", ["gzip", "deflate", "br", "identity"])
def test_an_empty_body_is_valid_in_every_coding(header: str) -> None:
    assert decoded(b"", header) == b""


def test_gzip_of_several_members_is_one_body() -> None:
    members = [gzip.compress(BYTES[start : start + 1000]) for start in range(0, 100_000, 1000)]
    for size in (1, 33, 1 << 20):
        assert decoded(b"".join(members), "gzip", size) == BYTES[:100_000]
    assert decoded(members[0] + bytes(500), "gzip", 100) == BYTES[:1000]  # padded, as tapes are


@pytest.mark.parametrize("header", ["br", "zstd", "compress", "gzip, br", "aws-chunked", "x" * 99, "gzip, utf-8"])
def test_an_unsupported_coding_is_refused_by_name(header: str) -> None:
    with pytest.raises(UnknownCoding, match="is not supported: use gzip or deflate") as refused:
        decoded(b"\x0b\x02\x80 something", header)
    assert repr(header.rpartition(", ")[2][:20]) in str(refused.value)


@pytest.mark.parametrize("header", ["br, gzip", "gzip, zstd", "compress, gzip"])
def test_an_unsupported_coding_beside_a_supported_one_is_refused_by_name(header: str) -> None:
    with pytest.raises(UnknownCoding, match="is not supported: use gzip or deflate"):
        decoded(gzip.compress(BYTES), header)


@pytest.mark.parametrize(("header", "pack"), PACK.items())
def test_data_that_is_not_in_its_coding_is_refused(header: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(BYTES)
    for body, message in [
        (b"plain text", f"the body is not {header} data"),
        (packed[:-5], f"the body's {header} data is incomplete"),
        (packed[:300] + bytes(30) + packed[330:], f"the body is not {header} data"),
        (packed + b"more", f"4 bytes follow the body's {header} data"),
    ]:
        for size in (1 << 20, 5 if "follow" not in message else 1 << 20):
            with pytest.raises(BadBody, match=message):
                decoded(body, header, size)


def test_nested_codings_and_too_many_gzip_members_are_refused() -> None:
    for header in ("gzip, gzip", "deflate, gzip", "gzip, gzip, gzip"):
        with pytest.raises(BadBody, match=f"codings, {header}: use one at most"):
            decoded(gzip.compress(gzip.compress(b"x")), header)
    with pytest.raises(BadBody, match="follow the body"):
        decoded(2000 * gzip.compress(b""), "gzip")


def stored(blocks: int) -> bytes:
    """gzip data that decodes to nothing: empty stored blocks (RFC 1951, 3.2.4)."""
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + blocks * b"\0\0\0\xff\xff"


@pytest.mark.parametrize(
    "body",
    [
        stored(1_000_000),
        b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + 5_000_000 * b"n",  # a file name without end
        gzip.compress(b"") + bytes(5_000_000),
        900 * gzip.compress(b"") + bytes(5_000_000),
    ],
    ids=["empty blocks", "name", "padding", "members"],
)
def test_data_that_decodes_to_nothing_is_read_in_small_steps(body: bytes) -> None:
    """Its caller can do other work between them."""
    decoder = ContentDecoder("gzip")
    slowest, before = 0.0, time.thread_time()
    for step in decoder.feed(body):
        assert step == b""
        slowest, before = max(slowest, time.thread_time() - before), time.thread_time()
    assert slowest < 0.02
    packed = stored(1_000_000)
    assert sum(1 for _ in ContentDecoder("gzip").feed(packed)) >= len(packed) / (1 << 16)


@pytest.mark.parametrize("header", ["gzip", "deflate"])
def test_a_bomb_comes_out_in_small_pieces(header: str) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 15 if header == "deflate" else 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    tracemalloc.start()
    try:
        decoder = ContentDecoder(header)
        pieces = decoder.feed(bomb)
        assert max(len(next(pieces)) for _ in range(50)) <= 1 << 18
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300), st.sampled_from([*PACK, "gzip, utf-8", "br"]), st.integers(1, 20))
def test_arbitrary_bytes_are_decoded_or_refused(body: bytes, header: str, size: int) -> None:
    for sent in (body, b"\x1f\x8b\x08" + body, gzip.compress(body)[: len(body)]):
        with suppress(BadBody, UnknownCoding):
            assert len(decoded(sent, header, size)) < 1100 * len(sent) + 1
