import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.decoding.image_decoding import decode
from model.files.bad_files import Damaged, TooManyPixels
from model.files.pixels import opened
from model.preprocess import rgb_image
from model.spec import Preprocessing
from tests.model.files import odd
from tests.support.pictures import encoded, scene

WHOLE = Preprocessing(odd.SIDE, odd.SIDE)


def pixels(body: bytes) -> NDArray[np.int16]:
    """The pixels of `body`, which the service must see too."""
    found = np.asarray(rgb_image(body))
    assert np.array_equal(found, decode(body, WHOLE, odd.SIDE**2))
    return found.astype(np.int16)


@pytest.mark.parametrize("make", odd.JPEGS.values(), ids=odd.JPEGS)
def test_bytes_behind_or_beside_the_pixels_do_not_change_a_jpeg(make: Callable[[], bytes]) -> None:
    body = make()
    plain = odd.jpeg(progressive=b"\xff\xc2" in body[:3000])
    assert np.array_equal(pixels(body), pixels(plain))


@pytest.mark.parametrize("make", odd.PNGS.values(), ids=odd.PNGS)
def test_bytes_behind_or_beside_the_pixels_do_not_change_a_png(make: Callable[[], bytes]) -> None:
    assert np.array_equal(pixels(make()), np.asarray(odd.PICTURE))


@pytest.mark.parametrize("make", odd.WEBPS.values(), ids=odd.WEBPS)
def test_bytes_behind_or_beside_the_pixels_do_not_change_a_webp(make: Callable[[], bytes]) -> None:
    assert np.array_equal(pixels(make()), np.asarray(odd.PICTURE))


@pytest.mark.parametrize("make", odd.GIFS.values(), ids=odd.GIFS)
def test_bytes_behind_or_beside_the_pixels_do_not_change_a_gif(make: Callable[[], bytes]) -> None:
    assert np.array_equal(pixels(make()), pixels(odd.GIF))


@pytest.mark.parametrize("make", odd.BMPS.values(), ids=odd.BMPS)
def test_the_variants_of_bmp(make: Callable[[], bytes]) -> None:
    assert np.array_equal(pixels(make()), np.asarray(odd.PICTURE))


@pytest.mark.parametrize("make", odd.ICONS.values(), ids=odd.ICONS)
def test_icons_and_cursors(make: Callable[[], bytes]) -> None:
    assert np.array_equal(pixels(make()), np.asarray(odd.PICTURE))


@pytest.mark.parametrize("make", odd.AVIFS.values(), ids=odd.AVIFS)
def test_avif(make: Callable[[], bytes]) -> None:
    assert np.array_equal(pixels(make()), pixels(odd.avif()))
    assert np.abs(pixels(make()) - np.asarray(odd.PICTURE)).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_is_applied_in_every_format_that_has_it(kind: str, orientation: int) -> None:
    image = scene(48, 32)
    turned = image.transpose(Image.Transpose.ROTATE_180 if orientation == 3 else Image.Transpose.ROTATE_270)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    found = np.asarray(rgb_image(encoded(image, kind, exif=odd.oriented(orientation), quality=100, **lossless)))
    assert found.shape == np.asarray(turned).shape
    assert np.abs(found.astype(int) - np.asarray(turned)).mean() < 8


@pytest.mark.parametrize(("kind", "orientation"), [(4, 3), (3, 3)], ids=["a LONG", "a SHORT"])
def test_an_orientation_may_be_a_number_of_either_kind(kind: int, orientation: int) -> None:
    body = odd.after_start(odd.segment(0xE1, odd.oriented(orientation, kind)))
    assert np.array_equal(pixels(body), pixels(odd.jpeg())[::-1, ::-1])


def grey_png(depth: int, row: bytes, transparent: int | None) -> bytes:
    """A grey PNG, two pixels high, whose rows are `row`."""
    width = len(row) * 8 // depth
    header = odd.chunk(b"IHDR", struct.pack(">IIBBBBB", width, 2, depth, 0, 0, 0, 0))
    marked = odd.chunk(b"tRNS", struct.pack(">H", transparent)) if transparent is not None else b""
    data = zlib.compress((b"\0" + row) * 2)
    return odd.PNG_MAGIC + header + marked + odd.chunk(b"IDAT", data) + odd.chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (1, b"\x55", 0, [255] * 8),
        (1, b"\x55", None, [0, 255] * 4),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x12", 2, [17, 255]),
        (8, b"\x07\x08", 7, [255, 8]),
        (16, b"\x12\x34\x12\x35", 0x1234, [255, 0x12]),
    ],
)
def test_grey_of_any_depth_may_have_a_transparent_value(
    depth: int, row: bytes, transparent: int | None, expected: list[int]
) -> None:
    found = np.asarray(rgb_image(grey_png(depth, row, transparent)))
    assert found[0, :, 0].tolist() == expected


def test_16_bits_of_colour_may_have_a_transparent_one() -> None:
    row = struct.pack(">6H", 0x1200, 0x3400, 0x5600, 0x1300, 0x3400, 0x5600)
    head = odd.chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    marked = odd.chunk(b"tRNS", struct.pack(">3H", 0x1200, 0x3400, 0x5600))
    data = odd.chunk(b"IDAT", zlib.compress(b"\0" + row))
    found = np.asarray(rgb_image(odd.PNG_MAGIC + head + marked + data + odd.chunk(b"IEND", b"")))
    assert found[0].tolist() == [[255, 255, 255], [0x13, 0x34, 0x56]]


def of_frame(marker: int, *, bits: int = 8, height: int = odd.SIDE, components: int = 3) -> bytes:
    """The JPEG with another frame header."""
    body = bytearray(odd.jpeg())
    at = body.index(b"\xff\xc0")
    body[at + 1], body[at + 4], body[at + 9] = marker, bits, components
    body[at + 5 : at + 7] = height.to_bytes(2, "big")
    return bytes(body)


REFUSED = {
    "12 bits": (lambda: of_frame(0xC1, bits=12), "a JPEG of 12 bits is not supported; convert it to one of 8 bits"),
    "lossless": (lambda: of_frame(0xC3), "a lossless JPEG is not supported; convert it"),
    "hierarchical": (lambda: of_frame(0xC5), "a hierarchical JPEG is not supported; convert it"),
    "two components": (lambda: of_frame(0xC0, components=2), "a JPEG of 2 components is not supported"),
    "height behind the scan": (lambda: of_frame(0xC0, height=0), r"height follows its first scan \(DNL\)"),
    "101 scans": (lambda: odd.progressive(101), "more than 100 scans"),
    "a flood of segments": (lambda: odd.after_start(b"\xff\xfe\0\2" * 60_000), "more than 50,000 segments"),
    "a flood of chunks": (lambda: odd.png(odd.chunk(b"tEXt", b"") * 60_000), "more than 50,000 chunks"),
    "a flood of blocks": (lambda: odd.gif(b"\x21\x01\0" * 60_000), "GIF image is incomplete: it has no frame"),
    "headers alone": (lambda: odd.jpeg()[:300], "JPEG image is incomplete: it ends before its pixels"),
    "half a JPEG": (lambda: odd.jpeg()[:-800], "the JPEG image is incomplete: the file ends before its last pixels"),
    "a JPEG but for its last bytes": (lambda: odd.jpeg()[:-30], "JPEG image is incomplete: the file ends"),
    "half a progressive JPEG": (lambda: odd.jpeg(progressive=True)[:-1500], "JPEG image is incomplete: the file ends"),
    "half a PNG": (lambda: odd.png()[:-2000], "the PNG image is incomplete: the file ends before its last pixels"),
    "half a GIF": (lambda: odd.GIF[:-1000], "the GIF image is incomplete: the file ends before its last pixels"),
    "half a WebP": (lambda: encoded(odd.PICTURE, "WEBP")[:-500], "the WebP image is incomplete: the file ends"),
    "half a BMP": (lambda: encoded(odd.PICTURE, "BMP")[:-500], "the BMP image is incomplete: the file ends"),
    "half an AVIF": (lambda: odd.avif()[:-500], "the AVIF image is incomplete: the file ends"),
    "Apple's PNG": (
        lambda: odd.PNG_MAGIC + odd.chunk(b"CgBI", bytes(4)) + odd.png()[8:],
        r"compressed for iOS \(CgBI\) is not supported; take the original",
    ),
    "a PNG with a wrong palette": (
        lambda: encoded(odd.PICTURE.quantize(), "PNG").replace(b"PLTE", b"PLTA"),
        "the PNG image is damaged",
    ),
    "a BMP with unusual masks": (
        lambda: odd.bmp(bytes(odd.SIDE**2 * 2), 16, 3, table=struct.pack("<3I", 0xF00, 0xF0, 0xF)),
        r"a BMP of this kind \(bitfields layout\) is not supported; convert it to PNG",
    ),
    "an icon in an icon": (lambda: odd.icon(odd.icon(odd.png())), "the ICO image is damaged: its bitmap has no header"),
    "an icon without images": (lambda: odd.icon(odd.png())[:30], "the ICO image is incomplete: none of its images"),
    "an icon of another size": (
        lambda: odd.icon(odd.bitmap_with_mask(255), size=32),
        "its bitmap is of another size than its directory says",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_an_error_says_what_is_wrong(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(Damaged, match=message):
        rgb_image(make())


def header_of_png(width: int, height: int) -> bytes:
    return odd.PNG_MAGIC + odd.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + odd.png()[33:]


def sized_avif(width: int, height: int) -> bytes:
    body = odd.avif()
    at = body.index(b"ispe") + 8
    return body[:at] + struct.pack(">II", width, height) + body[at + 8 :]


@pytest.mark.parametrize(
    "body",
    [
        header_of_png(30_000, 30_000),
        odd.icon(header_of_png(30_000, 30_000)),
        of_frame(0xC0, height=65_000),
        sized_avif(8000, 8000),
        odd.riff((b"VP8X", bytes((2, 0, 0, 0)) + b"\xff\x2f\0" * 2), (b"ANIM", bytes(6)), odd.frame(odd.PICTURE)),
        odd.GIF[:6] + b"\xff\xff\xff\xff" + odd.GIF[10:],
        odd.bmp(b"", 24, height=-(1 << 31)),
    ],
    ids=["PNG", "ICO", "JPEG", "AVIF", "WebP", "GIF", "BMP"],
)
def test_pixels_are_limited_before_decoding_in_every_format(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(TooManyPixels, match="over the limit of 1,000,000"), opened(body, 1_000_000):
        raise AssertionError("it was opened")
    assert time.process_time() - started < 1


def test_an_avif_of_more_pixels_than_it_says_shows_no_more_than_it_says() -> None:
    body = encoded(scene(400, 300), "AVIF")
    at = body.index(b"ispe") + 8
    body = body[:at] + struct.pack(">II", 100, 100) + body[at + 8 :]
    assert rgb_image(body, max_pixels=100 * 100).size == (100, 100)


def test_the_shipped_photographs_keep_their_pixels() -> None:
    for path in sorted((Path(__file__).parents[3] / "export" / "data" / "photos").glob("*.jpg")):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(rgb_image(path.read_bytes())), np.asarray(image.convert("RGB")))
