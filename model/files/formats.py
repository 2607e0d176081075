"""Formats, recognised by their first bytes: those that are read here, and those that are refused by their name."""

import re
from collections.abc import Callable, Iterable

from PIL import features

from model.files.bad_files import UnknownFormat

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".avif",
    ".ico", ".cur",
)  # fmt: skip
OTHER_SUFFIXES = (  # of images that are not read here
    ".heic", ".heif", ".tif", ".tiff", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".pdf", ".dng", ".cr2", ".cr3", ".nef",
    ".arw", ".orf", ".raf", ".rw2", ".tga", ".exr", ".dcm", ".ppm", ".pgm", ".eps",
)  # fmt: skip

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def brands(head: bytes) -> list[bytes]:
    """The brands of an ISO base media file, the major one first (ISO/IEC 14496-12, section 4.3); none of others."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]


def _is_avif(head: bytes) -> bool:
    return any(brand in _AVIF_BRANDS for brand in brands(head))


def _is_icon(head: bytes) -> bool:
    return head.startswith((b"\0\0\1\0", b"\0\0\2\0")) and head[4:6] != b"\0\0" and head[9:10] == b"\0"


# Pillow's name of each format, and what the first HEAD_BYTES bytes of its files are like.
FORMATS: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda head: head.startswith(b"\xff\xd8\xff"),
    "PNG": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
    "GIF": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "BMP": lambda head: head.startswith(b"BM"),
    **({"AVIF": _is_avif} if features.check("avif") else {}),
    "ICO": _is_icon,
}
HEAD_BYTES = 1024
NAMES = "JPEG, PNG, WebP, GIF, BMP, AVIF or ICO"

_IMAGES = [  # that are not read here: their names, and how they begin
    ("TIFF or a camera's raw format", rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+|IIRO|IIRS|IIU\x00|FUJIFILMCCD-RAW"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XR", rb"II\xbc"),
    ("SVG", rb"(?i:(?:\xef\xbb\xbf)?\s*<(?!!doctype html|html)(?:.*?<)??svg)"),
    ("PDF", rb"\s*%PDF"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("PSD (Photoshop)", rb"8BPS"),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("Radiance HDR", rb"#\?RADIANCE|#\?RGBE"),
    ("DDS", rb"DDS "),
    ("QOI", rb"qoif"),
    ("DICOM", rb".{128}DICM"),
    ("DjVu", rb"AT&TFORM"),
    ("ICNS (Apple's icons)", rb"icns"),
    ("PNM", rb"P[1-7][\s#]"),
    ("BPG", rb"BPG\xfb"),
    ("FLIF", rb"FLIF"),
    ("MNG or JNG", rb"\x8aMNG\r\n|\x8bJNG\r\n"),
    ("XCF (GIMP)", rb"gimp xcf"),
    ("PCX", rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08].{60}\x00"),
    ("XBM or XPM", rb"(?:/\*.{0,200}?\*/\s*)?#define\s+\w{1,100}_width\s|/\* XPM \*/"),
    ("FITS", rb"SIMPLE  ="),
    ("Windows Metafile", rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF"),
]
_OTHERS = [  # what stands in the place of an image: its name with its article, and how it begins
    ("JSON, not an image", rb'(?:\xef\xbb\xbf)?\s*(?:[{\[]\s*["\[{\d\]}]|")'),
    ("an archive or compressed, not an image", rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar"),
]
_PLAIN_OTHERS = [  # and what no content coding can begin like
    ("a pointer of Git LFS, not the image: run `git lfs pull`", rb"version https://git-lfs"),
    ("an HTML page, not an image", rb"(?i:(?:\xef\xbb\xbf)?\s*<(?:.*?<)??(?:!doctype html|html|head|body))"),
    ("text in base64: decode it first", rb"\s*(?:data:image/|/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|AAAA.GZ0eX)"),
    ("a ZIP archive, not an image", rb"PK\x03\x04|PK\x05\x06"),
    ("a video or sound, not an image", rb"\x1aE\xdf\xa3|RIFF....(?:AVI |WAVE)|OggS|\x00\x00\x01[\xb3\xba]|ID3|FLV\x01"),
    ("an array of NumPy: save it as an image", rb"\x93NUMPY"),
    ("what macOS keeps beside a file (AppleDouble), not the image", rb"\x00\x05\x16[\x00\x07]"),
]


def recognised(body: bytes) -> str:
    """Pillow's name of the format of `body`; UnknownFormat says what it is instead."""
    head = body[:HEAD_BYTES]
    for kind, matches in FORMATS.items():
        if matches(head):
            return kind
    raise UnknownFormat(_what_it_is(head))


def is_named(head: bytes) -> bool:
    """Whether what begins so would be refused by its name, and is no compressed data."""
    return head[4:8] == b"ftyp" or bool(_first((*_IMAGES, *_PLAIN_OTHERS), head))


def _what_it_is(head: bytes) -> str:
    if not head:
        return "the file is empty"
    name = _of_brands(brands(head)) or _first(_IMAGES, head)
    if name:
        return f"the image is {name}, which is not supported; convert it to JPEG, PNG or WebP"
    other = "a video, not an image" if head[4:8] == b"ftyp" else _first((*_PLAIN_OTHERS, *_OTHERS), head)
    if other:
        return f"the bytes are {other}"
    return f"the bytes are not a {NAMES} image" + (", but all zeros" if not any(head) else "")


def _of_brands(found: list[bytes]) -> str | None:
    if any(brand in _AVIF_BRANDS for brand in found):
        return "AVIF, which the installed Pillow cannot read"
    if any(brand in _HEIC_BRANDS for brand in found):
        return "HEIC"
    return "Canon's raw format" if b"crx " in found else None


def _first(names: Iterable[tuple[str, bytes]], head: bytes) -> str | None:
    return next((name for name, pattern in names if re.match(pattern, head, re.DOTALL)), None)
