"""Base64 as tools and languages write it (RFC 4648), with reasons for what is not."""

import binascii
import re
from urllib.parse import unquote_to_bytes

from app.decoding.content_kind import is_hexadecimal

_SHOWN = 60
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_HEAD = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://\S", re.IGNORECASE)
_NAME = re.compile(r"[^\0\r\n]{0,500}\.[a-z0-9]{2,5}", re.IGNORECASE)
_PYTHON = re.compile(r"b['\"]")


class BadBase64(ValueError):
    """Not base64; `args[0]` says what it is."""


def decode_base64(text: object) -> bytes:
    """The bytes that `text` encodes.

    In the usual alphabet or that for URLs, with padding or without, over several lines, or as a data URI (RFC 2397).
    Raises BadBase64.
    """
    if not isinstance(text, str):
        raise BadBase64(f"this is {_kind(text)}")
    digits = _digits(text)
    if is_hexadecimal(digits[:1000]):  # which would be base64 too
        raise BadBase64("this is hexadecimal")
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error as err:
        raise BadBase64(_why(text)) from err


def _digits(text: str) -> bytes:
    head = _HEAD.match(text[:300])
    if head is not None and head[0][:-1].lower().rpartition(";")[2].strip() != "base64":
        raise BadBase64("a data URI has ;base64 before its comma")
    data = text[head.end() :] if head is not None else text
    try:
        raw = data.encode("ascii")
    except UnicodeEncodeError:
        raise BadBase64(_why(text)) from None
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    return b"".join(raw.split()).translate(_URL_SAFE)


def _why(text: str) -> str:
    """What a text is that is not base64."""
    start = text[:_SHOWN]
    if _PYTHON.match(start):
        return "this is what Python prints for bytes: decode them to a string"
    if _URL.match(start):
        return "this is a URL, and no URL is fetched"
    if len(text) < 1000 and _NAME.fullmatch(text):
        return "this is the name of a file"
    if text.lstrip()[:1] in ("{", "["):
        return "this is JSON in a string"
    return "this has characters that base64 has not, or ends within a byte"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "a number"
