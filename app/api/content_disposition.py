"""The Content-Disposition of a form's part, as RFC 7578 has it and as clients write it."""

import re
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

CHARSETS = ("utf-8", "us-ascii", "iso-8859-1")  # what clients declare; some of Python's take minutes, or raise
_OF_VALUES = (  # of `filename*`, beside those
    *(f"iso-8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16)),
    *(f"windows-{page}" for page in range(1250, 1259)),
    *("koi8-r", "koi8-u", "shift_jis", "windows-31j", "euc-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5"),
)

_PARAMETER = re.compile(r';\s*([^=;\s"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
_EXTENDED = re.compile(r"(?P<name>[^*]+)\*((?P<number>\d{1,2})(?P<encoded>\*?))?")
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n", "%0d": "\r", "%0a": "\n"}
_ESCAPE = re.compile("%22|%0D|%0A|%0d|%0a")
_DRIVE = re.compile(r"[A-Za-z]:\\|\\\\")


class BadDisposition(Exception):
    """It cannot be read; `args[0]` says why."""


class Disposition(NamedTuple):
    """`name` is None where there is none; `filename` is None for what is no file."""

    name: str | None
    filename: str | None


def parse_disposition(header: str, charset: str) -> Disposition:
    """What the `header` says, whose characters are bytes; `charset`, one of CHARSETS, is that of its values.

    In quoted values a backslash may stand before a quote (RFC 9110, 5.6.4), or %22, %0D and %0A for a quote and the
    ends of lines (HTML, 4.10.21.8). `filename*` (RFC 8187), which RFC 7578 does without and clients send, also in
    pieces (RFC 2231), goes before `filename` (RFC 6266, 4.3). Of a path on a Windows disk the last part is the name.
    Raises BadDisposition for a parameter that is given twice and differs.
    """
    plain: dict[str, str] = {}
    extended: dict[str, dict[int, tuple[str, bool]]] = {}
    for key, value in _PARAMETER.findall(header):
        key = key.lower()
        value = _unquoted(value.strip())
        match = _EXTENDED.fullmatch(key)
        if match is not None:
            encoded = match["number"] is None or bool(match["encoded"])
            extended.setdefault(match["name"], {})[int(match["number"] or 0)] = (value, encoded)
        elif plain.setdefault(key, value) != value:
            raise BadDisposition(f"the Content-Disposition of a part has two values for {key[:20]!r}")
    found = {key: _text(_ESCAPE.sub(lambda seen: _ESCAPES[seen[0]], value), charset) for key, value in plain.items()}
    found |= {key: _decoded(pieces, charset) for key, pieces in extended.items()}
    filename = found.get("filename")
    if filename is not None and _DRIVE.match(filename):
        filename = filename.rpartition("\\")[2]
    return Disposition(found.get("name"), filename)


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1].replace("\\\\", "\\").replace('\\"', '"')
    return value


def _decoded(pieces: dict[int, tuple[str, bool]], charset: str) -> str:
    """The value of `name*`, or of `name*0`, `name*1*`, …: CHARSET'LANGUAGE'VALUE with %XX for bytes.

    The bytes stay as %XX where their charset is not known, or they are not in it.
    """
    values = [pieces[number] for number in sorted(pieces)]
    first, encoded = values[0]
    if encoded and first.count("'") >= 2:
        declared, _, first = first.split("'", 2)
        values[0] = (first, True)
        charset = declared.lower() or charset
    raw = b"".join(unquote_to_bytes(value) if encoded else value.encode("latin-1") for value, encoded in values)
    if charset in (*CHARSETS, *_OF_VALUES):
        with suppress(UnicodeDecodeError):
            return raw.decode(charset)
    return "".join(value for value, _ in values)


def _text(raw: str, charset: str) -> str:
    try:
        return raw.encode("latin-1").decode(charset)
    except UnicodeDecodeError:
        return raw
