"""Recognizes, by its bytes, what a client sent instead of an image file, so that the refusal can name it."""

import re
from collections.abc import Callable

from app.errors import NoImage, NotAnImage
from model.files.formats import FORMATS, HEAD_BYTES

_HEX_IMAGE_STARTS = (b"ffd8ff", b"89504e47", b"52494646", b"47494638", b"424d")
_HEX = re.compile(rb"(0x|\\x)?[0-9a-fA-F\s\\x]{24,}")
_FORM_PART = re.compile(rb"--\S[^\r\n]{0,250}\r?\ncontent-", re.IGNORECASE)
_URLENCODED = re.compile(rb"[\w.\[\]-]{1,40}=[@%\w/+.:-]")
_NAME = re.compile(rb"@?[^\0\r\n]{0,500}\.(jpe?g|png|webp|gif|bmp|tiff?|heic|avif)", re.IGNORECASE)
_GZIP = b"\x1f\x8b"
_AWS_CHUNK = re.compile(rb"[0-9a-fA-F]{1,8};chunk-signature=")


def is_hexadecimal(head: bytes) -> bool:
    """Whether text that begins with `head` is an image file's bytes in hexadecimal."""
    return head.lower().removeprefix(b"0x").replace(b"\\x", b"").startswith(_HEX_IMAGE_STARTS) and bool(
        _HEX.fullmatch(head)
    )


_KINDS: tuple[tuple[Callable[[bytes], object], str], ...] = (
    (lambda head: head.startswith(_GZIP), "gzip data: unpack it first"),
    (
        _FORM_PART.match,
        "a form whose Content-Type does not say so: it must be multipart/form-data with the form's boundary, and HTTP "
        "libraries set it if you leave it out",
    ),
    (_AWS_CHUNK.match, "the framing of aws-chunked: send the bytes without it"),
    (lambda head: head[:5].lower() == b"data:", "a data URI: send the file that it encodes"),
    (is_hexadecimal, "hexadecimal text: send the bytes that it encodes"),
    (
        re.compile(rb"[a-z][a-z0-9+.-]{1,20}://\S", re.IGNORECASE).match,
        "a URL, and the service fetches no URLs: send the file",
    ),
    (lambda head: head.startswith(b"[object "), "JavaScript's text for an object: send its bytes"),
    (_URLENCODED.match, "an urlencoded form: send the file's bytes, or a multipart form (curl -F file=@FILE)"),
    (_NAME.fullmatch, "the name of a file: send its bytes (curl --data-binary @FILE or -F file=@FILE)"),
    (lambda head: head.startswith((b"\xff\xfe", b"\xfe\xff")), "text in UTF-16: send the file's own bytes"),
)


def is_form(head: bytes) -> bool:
    """Whether a body that begins with `head` is a multipart form."""
    return bool(_FORM_PART.match(head.lstrip()))


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head` is in one of the supported formats."""
    return any(matches(head[:HEAD_BYTES]) for matches in FORMATS.values())


def mistaken(content: bytes, *, body: bool = False) -> str | None:
    """What `content` is instead of an image file, with advice; None if that cannot be told.

    `body` tells that `content` is the whole body of a request without a content coding; a file in a form has none.
    """
    if looks_like_image(content):
        return None
    if body and content.startswith(_GZIP):
        return "gzip data: say so with Content-Encoding: gzip"
    head = content[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").strip()
    return next((kind for matches, kind in _KINDS if matches(head)), None)


def file_refusal(content: bytes) -> NoImage | NotAnImage | None:
    """The error for a file of several that need not be decoded, since it is not an image; None if it may be one."""
    if not content:
        return NoImage("the file is empty")
    if kind := mistaken(content):
        return NotAnImage(f"the file is not an image but {kind}")
    return None
