"""Decodes base64 as tools and languages write it (RFC 4648), and says what other text is."""

import binascii
import re
from urllib.parse import unquote_to_bytes

from app.decoding.content_kind import is_hexadecimal

NOT_BASE64 = "this has characters that are not base64, or ends within a byte"  # all that can be said of some text

_START_CHARS = 60  # that tell what a text is
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_DATA_URI_HEAD = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://\S", re.IGNORECASE)
_FILE_NAME = re.compile(r"[^\0\r\n]{0,500}\.[a-z0-9]{2,5}", re.IGNORECASE)
_PYTHON_BYTES = re.compile(r"b['\"]")


class BadBase64(ValueError):
    """The text is not base64; `args[0]` says what it is."""


def decode_base64(text: object) -> bytes:
    """The bytes that `text` encodes.

    It may use the usual alphabet or the one for URLs, have padding or not, have several lines, or be a data URI
    (RFC 2397). Raises BadBase64.
    """
    if not isinstance(text, str):
        raise BadBase64(f"this is {_kind(text)}")
    digits = _digits(text)
    if is_hexadecimal(digits[:1000]):  # hexadecimal digits are valid base64 too
        raise BadBase64("this is hexadecimal")
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error as err:
        raise BadBase64(_why(text)) from err


def _digits(text: str) -> bytes:
    head = _DATA_URI_HEAD.match(text[:300])
    if head is not None and head[0][:-1].lower().rpartition(";")[2].strip() != "base64":
        raise BadBase64("a data URI must have ;base64 before its comma")
    data = text[head.end() :] if head is not None else text
    try:
        raw = data.encode("ascii")
    except UnicodeEncodeError:
        raise BadBase64(_why(text)) from None
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    return b"".join(raw.split()).translate(_URL_SAFE)


def _why(text: str) -> str:
    """Says what `text`, which is not base64, is."""
    start = text[:_START_CHARS]
    if _PYTHON_BYTES.match(start):
        return "this is Python's text for bytes: decode the bytes to a string"
    if _URL.match(start):
        return "this is a URL, and the service fetches no URLs"
    if len(text) < 1000 and _FILE_NAME.fullmatch(text):
        return "this is the name of a file"
    if text.lstrip()[:1] in ("{", "["):
        return "this is JSON in a string"
    return NOT_BASE64


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "a number"
