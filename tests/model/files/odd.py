"""Image files as cameras, phones and programs write them, and as a browser still shows them; made by code."""

import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.support.pictures import encoded, scene

SIDE = 64
PICTURE = scene(SIDE, SIDE)
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
NOISE = random.Random(0).randbytes(300_000)  # noqa: S311
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>'


def oriented(orientation: int, kind: int = 3) -> bytes:
    """Exif that says how the image is turned, as a SHORT (3) or as a value of another kind."""
    value = struct.pack(">H", orientation) + b"\0\0" if kind == 3 else struct.pack(">I", orientation)
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 0x0112, kind, 1) + value + b"\0\0\0\0"


def jpeg(**options: Any) -> bytes:
    return encoded(PICTURE, "JPEG", quality=90, **options)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def after_start(*segments: bytes, body: bytes | None = None) -> bytes:
    body = body or jpeg()
    return body[:2] + b"".join(segments) + body[2:]


def before_frame(inserted: bytes) -> bytes:
    body = jpeg()
    at = body.index(b"\xff\xc0")
    return body[:at] + inserted + body[at:]


def progressive(scans: int) -> bytes:
    """A progressive JPEG with so many scans, the first of which comes again and again."""
    body = jpeg(progressive=True)
    starts = [at for at in range(len(body)) if body[at : at + 2] == b"\xff\xda"]
    first = body[starts[0] : body.index(b"\xff\xc4", starts[0])]
    return body[: starts[0]] + first * (scans - len(starts)) + body[starts[0] :]


# As plain JPEGs of the same quality, each of them.
JPEGS: dict[str, Callable[[], bytes]] = {
    "a video behind the end": lambda: jpeg() + b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + NOISE,
    "200 false markers of scans behind the end": lambda: jpeg() + b"\xff\xda" * 200,
    "another JPEG behind the end": lambda: jpeg() + encoded(scene(32, 32, 1), "JPEG"),
    "Samsung's trailer": lambda: jpeg() + b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1600000000000SEFH\x6b\0\0\0\x01\0\0\0",
    "an index of several pictures (MPF)": lambda: after_start(segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\x03")) + jpeg(),
    "a preview with scans of its own": lambda: after_start(segment(0xE1, b"Exif\0\0" + b"\xff\xda" * 3000)),
    "no end marker": lambda: jpeg()[:-2],
    "no end marker, progressive": lambda: jpeg(progressive=True)[:-2],
    "half an end marker": lambda: jpeg()[:-1],
    "bytes between segments": lambda: before_frame(b"garbage"),
    "fill between segments": lambda: before_frame(b"\xff" * 1000),
    "fill before the end": lambda: jpeg()[:-2] + b"\xff" * 10 + b"\xff\xd9",
    "a stray restart between segments": lambda: before_frame(b"\xff\xd3"),
    "restarts": lambda: jpeg(restart_marker_blocks=1),
    "broken Exif": lambda: after_start(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "Exif without a header": lambda: after_start(segment(0xE1, b"Exif\0\0")),
    "64 KB of Exif": lambda: after_start(segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + NOISE[:65_000])),
    "Exif twice": lambda: after_start(segment(0xE1, oriented(1)), segment(0xE1, oriented(6))),
    "an orientation out of range": lambda: after_start(segment(0xE1, oriented(9))),
    "an orientation in XMP": lambda: after_start(segment(0xE1, XMP)),
    "half a JFIF segment": lambda: after_start(segment(0xE0, b"JFIF\0")),
    "half an Adobe segment": lambda: after_start(segment(0xEE, b"Adobe")),
    "a comment of odd bytes": lambda: after_start(segment(0xFE, b"\xff\xd9\xff\xda\0\x80\xff")),
    "a part of a profile": lambda: after_start(segment(0xE2, b"ICC_PROFILE\0\x02\x03" + bytes(200))),
    "half a profile segment": lambda: after_start(segment(0xE2, b"ICC_PROFILE\0")),
    "half a Photoshop segment": lambda: after_start(segment(0xED, b"Photoshop 3.0\x008BIM\x03")),
    "Photoshop's resolution, cut off": lambda: after_start(
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x04abcd")
    ),
    "a segment of a future kind": lambda: after_start(segment(0xF3, b"JPG3")),
    "3000 empty comments": lambda: after_start(*[segment(0xFE, b"")] * 3000),
}


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(*before: bytes, after: bytes = b"", end: bytes = chunk(b"IEND", b"")) -> bytes:
    """The picture as PNG with chunks before and after its data."""
    body = encoded(PICTURE, "PNG")
    data = body.index(b"IDAT") - 4
    return body[:data] + b"".join(before) + body[data:-12] + after + end


def profile_chunk(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))


def text(kind: bytes, content: bytes) -> bytes:
    head = b"Comment\0\0" if kind == b"zTXt" else b"Comment\0\1\0\0\0"
    return chunk(kind, head + zlib.compress(content))


# As the plain PNG, each of them.
PNGS: dict[str, Callable[[], bytes]] = {
    "a profile of 2 MB": lambda: png(profile_chunk(PROFILE + bytes(2_000_000))),
    "2 MB of compressed text": lambda: png(text(b"zTXt", b"words " * 350_000)),
    "2 MB of international text": lambda: png(text(b"iTXt", b"words " * 350_000)),
    "70 MB of text in all": lambda: png(*[text(b"zTXt", bytes(1_000_000))] * 70),
    "much text behind the data": lambda: png(after=text(b"zTXt", bytes(2_000_000))),
    "text that does not inflate": lambda: png(chunk(b"zTXt", b"Comment\0\0" + NOISE[:500])),
    "a profile that does not inflate": lambda: png(chunk(b"iCCP", b"p\0\0" + NOISE[:500])),
    "a profile of another method": lambda: png(chunk(b"iCCP", b"p\0\x07abc")),
    "an empty profile": lambda: png(chunk(b"iCCP", b"")),
    "a wrong checksum of text": lambda: png(chunk(b"tEXt", b"a\0b", 1)),
    "a wrong checksum of transparency": lambda: png(chunk(b"tRNS", bytes(6), 1)),
    "transparency cut short": lambda: png(chunk(b"tRNS", b"\0")),
    "half a gamma": lambda: png(chunk(b"gAMA", b"\0")),
    "half a chromaticity": lambda: png(chunk(b"cHRM", b"\0\0")),
    "half a resolution": lambda: png(chunk(b"pHYs", b"\0\0\0")),
    "half an sRGB": lambda: png(chunk(b"sRGB", b"")),
    "broken Exif": lambda: png(chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    "Exif of a wrong checksum": lambda: png(chunk(b"eXIf", oriented(6)[6:], 1)),
    "an orientation in XMP": lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP[29:])),
    "an animation's broken frames": lambda: png(chunk(b"acTL", struct.pack(">II", 0, 0)), chunk(b"fcTL", b"\0\0")),
    "a suggested palette": lambda: png(chunk(b"PLTE", bytes(9))),
    "a second header": lambda: png(chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))),
    "no end": lambda: png(end=b""),
    "an end of a wrong checksum": lambda: png(end=chunk(b"IEND", b"", 1)),
    "bytes behind the end": lambda: png() + NOISE,
    "chunks behind the end": lambda: png() + chunk(b"IDAT", b"abc") + chunk(b"tEXt", b"x"),
    "a chunk that is too long behind the data": lambda: png(after=b"\x7f\xff\xff\xfftEXt", end=b""),
    "data in pieces with text between": lambda: pieces_of_data(chunk(b"tEXt", b"a\0b")),
    "an unknown critical chunk": lambda: png(chunk(b"ABCD", b"x")),
}


def pieces_of_data(between: bytes) -> bytes:
    body = png()
    at = body.index(b"IDAT") - 4
    length = int.from_bytes(body[at : at + 4], "big")
    data, rest = body[at + 8 : at + 8 + length], body[at + 12 + length :]
    return body[:at] + chunk(b"IDAT", data[:50]) + between + chunk(b"IDAT", data[50:]) + rest


def riff(*chunks: tuple[bytes, bytes], length: int | None = None) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body) if length is None else length) + b"WEBP" + body


def webp_image(image: Image.Image = PICTURE) -> tuple[bytes, bytes]:
    """The one chunk of a lossless WebP."""
    body = encoded(image, "WEBP", lossless=True)
    length = int.from_bytes(body[16:20], "little")
    return body[12:16], body[20 : 20 + length]


def canvas(flags: int) -> tuple[bytes, bytes]:
    side = (SIDE - 1).to_bytes(3, "little")
    return b"VP8X", bytes((flags, 0, 0, 0)) + side * 2


def frame(image: Image.Image) -> tuple[bytes, bytes]:
    kind, content = webp_image(image)
    side = (SIDE - 1).to_bytes(3, "little")
    return b"ANMF", bytes(6) + side * 2 + bytes(4) + riff((kind, content))[12:]


WEBPS: dict[str, Callable[[], bytes]] = {
    "bytes behind the end": lambda: riff(webp_image()) + NOISE,
    "a length that is too short": lambda: riff(webp_image(), length=30),
    "a length that is too long": lambda: riff(webp_image(), length=1 << 30),
    "a length of zero": lambda: riff(webp_image(), length=0),
    "broken Exif": lambda: riff(canvas(8), webp_image(), (b"EXIF", b"II*\0\xff\xff\xff\xff")),
    "Exif cut off": lambda: riff(canvas(8), webp_image(), (b"EXIF", bytes(3000)))[:-2000],
    "a broken profile": lambda: riff(canvas(0x20), (b"ICCP", b"no profile"), webp_image()),
    "a profile that is announced and not there": lambda: riff(canvas(0x20), webp_image()),
    "broken XMP": lambda: riff(canvas(4), webp_image(), (b"XMP ", NOISE[:99])),
    "an unknown chunk": lambda: riff(canvas(0), (b"ABCD", NOISE[:101]), webp_image()),
    "a second image": lambda: riff(canvas(0), webp_image(), webp_image(scene(SIDE, SIDE, 1))),
    "an animation whose second frame is cut off": lambda: riff(
        canvas(2), (b"ANIM", bytes(6)), frame(PICTURE), frame(scene(SIDE, SIDE, 1))
    )[:-500],
}

GIF = encoded(PICTURE, "GIF")
_IMAGE = GIF.index(b"\x2c", 13 + 768)


def gif(before: bytes = b"", *, after: bytes = b"", end: bytes = b";") -> bytes:
    return GIF[:_IMAGE] + before + GIF[_IMAGE:-1] + after + end


GIFS: dict[str, Callable[[], bytes]] = {
    "no end": lambda: gif(end=b""),
    "bytes behind the end": lambda: gif() + NOISE,
    "a comment that is cut off": lambda: gif(after=b"\x21\xfe\xffabc", end=b""),
    "an extension of an unknown kind": lambda: gif(b"\x21\x77\x03abc\0"),
    "an application's extension that is too short": lambda: gif(b"\x21\xff\x03abc\x02ab\0"),
    "a control that is too short": lambda: gif(b"\x21\xf9\x01\0\0"),
    "a frame without pixels": lambda: gif(b"\x2c" + bytes(9) + b"\x02\0"),
    "bytes between blocks": lambda: gif(b"\0\0\0"),
    "a second frame that is cut off": lambda: gif(after=GIF[_IMAGE : _IMAGE + 300], end=b""),
    "a second frame that is far away": lambda: gif(
        after=b"\x2c" + struct.pack("<4HB", 60_000, 60_000, 5000, 5000, 0) + b"\x02\x01\0\0"
    ),
    "no size of its own": lambda: GIF[:6] + bytes(4) + GIF[10:],
}


def bmp(pixels: bytes, depth: int, compression: int = 0, *, table: bytes = b"", height: int = SIDE) -> bytes:
    """A BMP of SIDE x SIDE pixels."""
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, height, 1, depth, compression, len(pixels), 0, 0, len(table) // 4, 0)
    offset = 54 + len(table)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + table + pixels


def _bgr(upside_down: bool = True) -> bytes:
    pixels = np.asarray(PICTURE)[:, :, ::-1]
    return (pixels[::-1] if upside_down else pixels).tobytes()


BMPS: dict[str, Callable[[], bytes]] = {
    "a wrong length": lambda: encoded(PICTURE, "BMP")[:2] + b"\x01\0\0\0" + encoded(PICTURE, "BMP")[6:],
    "bytes behind the end": lambda: encoded(PICTURE, "BMP") + NOISE,
    "from the top down": lambda: bmp(_bgr(upside_down=False), 24, height=-SIDE),
    "OS/2's header": lambda: (
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, SIDE, SIDE, 1, 24) + _bgr()
    ),
    "32 bits by masks": lambda: bmp(
        np.dstack([np.asarray(PICTURE)[::-1], np.zeros((SIDE, SIDE), np.uint8)])[:, :, [3, 2, 1, 0]].tobytes(),
        32,
        3,
        table=struct.pack("<3I", 0xFF000000, 0xFF0000, 0xFF00),
    ),
}


def icon(*images: bytes, cursor: bool = False, size: int = SIDE) -> bytes:
    """A Windows icon of these images, each of `size` pixels."""
    offset = 6 + 16 * len(images)
    head = struct.pack("<HHH", 0, 2 if cursor else 1, len(images))
    for image in images:
        head += struct.pack("<BBBBHHII", size % 256, size % 256, 0, 0, 1, 32, len(image), offset)
        offset += len(image)
    return head + b"".join(images)


def bitmap_with_mask(alpha: int) -> bytes:
    """What an icon has in it: a bitmap of 32 bits without its file's header, twice as high for the mask."""
    pixels = np.dstack([np.asarray(PICTURE)[::-1, :, ::-1], np.full((SIDE, SIDE), alpha, np.uint8)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, 2 * SIDE, 1, 32, 0, len(pixels), 0, 0, 0, 0)
    return header + pixels + bytes(SIDE * SIDE // 8)


ICONS: dict[str, Callable[[], bytes]] = {
    "a PNG": lambda: icon(png()),
    "a bitmap": lambda: icon(bitmap_with_mask(255)),
    "a bitmap without transparency": lambda: icon(bitmap_with_mask(0)),
    "a cursor": lambda: icon(bitmap_with_mask(255), cursor=True),
    "a smaller image and its directory cut off": lambda: icon(png())[:4] + b"\xff\xff" + icon(png())[6:],
}


def avif(**options: Any) -> bytes:
    return encoded(PICTURE, "AVIF", quality=100, **options)


AVIFS: dict[str, Callable[[], bytes]] = {
    "plain": avif,
    "broken Exif": lambda: avif(exif=oriented(1)).replace(oriented(1)[6:], b"no tiff." + oriented(1)[14:]),
    "a profile": lambda: avif(icc_profile=PROFILE),
    "bytes behind the end": lambda: avif() + NOISE,
    "an animation": lambda: avif(save_all=True, append_images=[scene(SIDE, SIDE, 1)]),
}


def reopened(body: bytes) -> Image.Image:
    return Image.open(BytesIO(body))
