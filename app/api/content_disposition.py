"""Parses the Content-Disposition of a form's part, as RFC 7578 defines it and as clients write it."""

import re
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

CHARSETS = (
    "utf-8",
    "us-ascii",
    "iso-8859-1",
)  # only those that clients declare: some of Python's take minutes, or raise
_EXTENDED_VALUE_CHARSETS = (
    *CHARSETS,
    *(f"iso-8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16)),
    *(f"windows-{page}" for page in range(1250, 1259)),
    *("koi8-r", "koi8-u", "shift_jis", "windows-31j", "euc-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5"),
)

_PARAMETER = re.compile(r';\s*([^=;\s"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
_EXTENDED_NAME = re.compile(r"(?P<name>[^*]+)\*((?P<number>\d{1,2})(?P<encoded>\*?))?")
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n", "%0d": "\r", "%0a": "\n"}
_ESCAPE = re.compile("%22|%0D|%0A|%0d|%0a")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:\\|\\\\")


class BadDisposition(Exception):
    """The header cannot be read; `args[0]` says why."""


class Disposition(NamedTuple):
    """A part's parameters.

    Attributes:
        name: of the form's field; None if the header has none.
        filename: None for a part that is not a file.
    """

    name: str | None
    filename: str | None


def parse_disposition(header: str, charset: str) -> Disposition:
    """Parse `header`, each of whose characters is one byte; its values are in `charset`, one of CHARSETS.

    Quoted values escape a quote by a backslash (RFC 9110, 5.6.4), or a quote and line ends as %22, %0D and %0A (HTML,
    4.10.21.8). `filename*` (RFC 8187) takes precedence over `filename` (RFC 6266, 4.3); RFC 7578 excludes it, but
    clients send it, also in pieces (RFC 2231). Of a Windows path the last part is the file name. Raises BadDisposition
    for a parameter with two different values.
    """
    plain: dict[str, str] = {}
    extended: dict[str, dict[int, tuple[str, bool]]] = {}
    for key, value in _PARAMETER.findall(header):
        key = key.lower()
        value = _unquote(value.strip())
        match = _EXTENDED_NAME.fullmatch(key)
        if match is not None:
            encoded = match["number"] is None or bool(match["encoded"])
            extended.setdefault(match["name"], {})[int(match["number"] or 0)] = (value, encoded)
        elif plain.setdefault(key, value) != value:
            raise BadDisposition(f"the Content-Disposition of a part has two values for {key[:20]!r}")
    values = {
        key: _decode(_ESCAPE.sub(lambda match: _ESCAPES[match[0]], value), charset) for key, value in plain.items()
    }
    values |= {key: _decode_extended(pieces, charset) for key, pieces in extended.items()}
    filename = values.get("filename")
    if filename is not None and _WINDOWS_PATH.match(filename):
        filename = filename.rpartition("\\")[2]
    return Disposition(values.get("name"), filename)


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1].replace("\\\\", "\\").replace('\\"', '"')
    return value


def _decode_extended(pieces: dict[int, tuple[str, bool]], charset: str) -> str:
    """The value of `name*`, or of `name*0`, `name*1*`, …: CHARSET'LANGUAGE'VALUE with bytes as %XX.

    They remain %XX where their charset is not supported, or they are not valid in it.
    """
    values = [pieces[number] for number in sorted(pieces)]
    first, encoded = values[0]
    if encoded and first.count("'") >= 2:
        declared, _, first = first.split("'", 2)
        values[0] = (first, True)
        charset = declared.lower() or charset
    raw = b"".join(unquote_to_bytes(value) if encoded else value.encode("latin-1") for value, encoded in values)
    if charset in _EXTENDED_VALUE_CHARSETS:
        with suppress(UnicodeDecodeError):
            return raw.decode(charset)
    return "".join(value for value, _ in values)


def _decode(raw: str, charset: str) -> str:
    try:
        return raw.encode("latin-1").decode(charset)
    except UnicodeDecodeError:
        return raw
