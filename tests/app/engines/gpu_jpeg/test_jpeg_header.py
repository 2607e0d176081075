import struct
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.engines.gpu_jpeg.jpeg_header import _SEARCHED_AT_A_TIME, PlainJpeg, plain
from tests.support.pictures import encoded, scene

LIMIT = 1_000_000


def jpeg(mode: str = "RGB", width: int = 60, height: int = 40, **options: Any) -> bytes:
    return encoded(scene(width, height).convert(mode), "JPEG", **options)


def with_segment(body: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with one segment more, right at its start."""
    return body[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + body[2:]


def exif(orientation: int | None, order: Literal[">", "<"] = ">") -> bytes:
    """An Exif block as cameras write it: other entries around the orientation, and bytes like one after them."""
    tags = {0x0103: 6, 0x0112: orientation, 0x0128: 2}
    entries = [struct.pack(f"{order}HHIHxx", tag, 3, 1, value) for tag, value in tags.items() if value is not None]
    head = struct.pack(f"{order}2sHIH", b"MM" if order == ">" else b"II", 42, 8, len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + struct.pack(f"{order}IHHIH", 0, 0x0112, 3, 1, 6)


PLAIN = {
    "grey": jpeg("L"),
    "4:4:4": jpeg(subsampling="4:4:4"),
    "4:2:2": jpeg(subsampling="4:2:2"),
    "4:2:0": jpeg(subsampling="4:2:0"),
    "best quality": jpeg(quality=100, subsampling=0),
    "restarts": jpeg(restart_marker_blocks=2),
    "a comment": jpeg(comment=b"taken on a \xff\xda sunny \xff\xd9 day"),
    "a colour profile": jpeg(icc_profile=bytes(70_000)),
    "upright by Exif": with_segment(jpeg(), 0xE1, exif(1)),
    "upright by Exif, Intel": with_segment(jpeg(), 0xE1, exif(1, "<")),
    "Exif without an orientation": with_segment(jpeg(), 0xE1, exif(None)),
    "XMP": with_segment(jpeg(), 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"),
}
BODY = PLAIN["4:2:0"]
SPECIAL = {
    "progressive": jpeg(progressive=True),
    "CMYK": jpeg("CMYK"),
    "RGB without a conversion": jpeg(keep_rgb=True),
    "chroma only across": BODY.replace(b"\x01\x22\0\x02\x11", b"\x01\x12\0\x02\x11"),
    "chroma at a fourth": BODY.replace(b"\x01\x22\0\x02\x11", b"\x01\x41\0\x02\x11"),
    "components numbered otherwise": BODY.replace(b"\x01\x22\0\x02\x11", b"\x00\x22\0\x02\x11"),
    "Adobe": with_segment(BODY, 0xEE, b"Adobe\0\x64\0\0\0\0\x01"),
    "turned": with_segment(BODY, 0xE1, exif(6)),
    "turned, Intel": with_segment(BODY, 0xE1, exif(3, "<")),
    "turned by XMP": with_segment(BODY, 0xE1, b'http://ns.adobe.com/xap/1.0/\0<a tiff:Orientation="3"/>'),
    "damaged Exif": with_segment(BODY, 0xE1, exif(1)[:20]),
    "Exif twice": with_segment(with_segment(BODY, 0xE1, exif(1)), 0xE1, exif(1)),
    "12 bits": BODY.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "extended": BODY.replace(b"\xff\xc0", b"\xff\xc1"),
    "arithmetic coding": BODY.replace(b"\xff\xc0", b"\xff\xc9"),
    "height in a later marker": BODY.replace(b"\xff\xc0\0\x11\x08\0\x28", b"\xff\xc0\0\x11\x08\0\0"),
    "no end": BODY[:-2],
    "truncated": BODY[: len(BODY) // 2],
    "a marker within the scan": BODY[:-40] + b"\xff\xc4" + BODY[-38:],
    "a second frame": with_segment(BODY, 0xC0, BODY[BODY.index(b"\xff\xc0") + 4 :][:15]),
    "no frame": BODY.replace(b"\xff\xc0", b"\xff\xe7"),
    "no scan": BODY[: BODY.index(b"\xff\xda")],
    "the start only": BODY[:2],
    "nothing": b"",
    "a PNG": encoded(scene(60, 40)),
}


@pytest.mark.parametrize("body", PLAIN.values(), ids=PLAIN)
def test_a_plain_jpeg_is_recognised_with_its_size(body: bytes) -> None:
    assert plain(body, LIMIT) == PlainJpeg(60, 40, len(body))
    assert plain(body + b"\xff\xd8 and what follows it", LIMIT) == PlainJpeg(60, 40, len(body))


@pytest.mark.parametrize("body", SPECIAL.values(), ids=SPECIAL)
def test_other_files_are_not_plain_jpegs(body: bytes) -> None:
    assert body != BODY
    assert plain(body, LIMIT) is None


def test_the_pixel_limit() -> None:
    assert plain(BODY, 60 * 40) is not None
    assert plain(BODY, 60 * 40 - 1) is None


def test_a_thumbnail_within_the_headers_is_no_end_and_no_frame() -> None:
    body = with_segment(jpeg(width=99), 0xE1, exif(1) + jpeg(width=16, height=16))
    assert plain(body, LIMIT) == PlainJpeg(99, 40, len(body))


def mutate(data: st.DataObject, body: bytes) -> bytes:
    """`body` with a few bytes changed, lost, doubled or moved, most of them where the headers are."""
    mutated = bytearray(body)
    places = st.one_of(st.integers(0, 700), st.integers(0, len(body)))
    for _ in range(data.draw(st.integers(1, 4))):
        start, length = data.draw(places), data.draw(st.integers(0, 24))
        match data.draw(st.sampled_from(["change", "lose", "double", "cut", "insert"])):
            case "change":
                mutated[start : start + 1] = bytes([data.draw(st.integers(0, 255))])
            case "lose":
                del mutated[start : start + length]
            case "double":
                mutated[start:start] = mutated[start : start + length]
            case "cut":
                del mutated[start:]
            case "insert":
                mutated[start:start] = data.draw(
                    st.sampled_from([b"\xff", b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\0"])
                )
    return bytes(mutated)


@settings(
    max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@pytest.mark.filterwarnings("ignore")
@given(data=st.data())
def test_a_jpeg_that_counts_as_plain_is_plain_for_pillow_too(data: st.DataObject) -> None:
    body = mutate(data, data.draw(st.sampled_from([*PLAIN.values(), SPECIAL["turned"], SPECIAL["progressive"]])))
    found = plain(body, LIMIT)
    if found is None:
        return
    with Image.open(BytesIO(body), formats=["JPEG"]) as image:
        assert image.size == (found.width, found.height)
        assert image.mode in ("L", "RGB")
        assert not {"progressive", "adobe"} & image.info.keys()
        assert image.getexif().get(0x0112, 1) == 1


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200).map(lambda tail: b"\xff\xd8" + tail))
def test_arbitrary_bytes_are_not_a_plain_jpeg(body: bytes) -> None:
    assert plain(body, LIMIT) is None


def test_a_plain_jpeg_that_is_cut_anywhere_is_not_plain() -> None:
    for body in PLAIN.values():
        if len(body) < 5000:
            assert all(plain(body[:length], LIMIT) is None for length in range(len(body)))


@pytest.mark.parametrize("count", [800, 1200])
def test_only_so_many_segments_are_read(count: int) -> None:
    body = BODY[:2] + count * b"\xff\xfe\0\2" + BODY[2:]
    assert (plain(body, LIMIT) is not None) == (count == 800)


def test_the_end_is_found_at_every_position_around_a_search_boundary() -> None:
    scan = BODY.index(b"\xff\xda") + 14
    for more in range(_SEARCHED_AT_A_TIME - len(BODY) + scan - 4, _SEARCHED_AT_A_TIME - len(BODY) + scan + 8):
        body = BODY[:-2] + bytes(more) + BODY[-2:]
        assert plain(body, LIMIT) == PlainJpeg(60, 40, len(body))
        assert plain(body[:-1], LIMIT) is None
        assert plain(body[:-2] + b"\xff\xc4" + BODY[-2:], LIMIT) is None


def test_a_large_plain_jpeg_is_recognised() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8))
    body = encoded(noise, "JPEG", quality=95)
    assert plain(body, 4_000_000) == PlainJpeg(2000, 2000, len(body))
