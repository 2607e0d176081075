"""A body's content codings, undone as it arrives (RFC 9110, 8.4).

The bytes decide: object stores and libraries leave a Content-Encoding on bytes that are in none. A body that plainly is
an image, JSON or a form is taken as it is, whatever coding its header names.
"""

import zlib
from collections.abc import Iterator

from app.errors import BadBody, UnknownCoding
from app.sent import is_image

CODINGS = ("gzip", "deflate")

_NONE = ("", "identity")
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3
_MOST = 2  # codings of one body
_MOST_MEMBERS = 1000  # of one gzip body: parallel compressors make one of each 64 KiB
_STEP = 1 << 18  # bytes that one call inflates at most
_HEAD = 64  # bytes that tell what a body is; AVIF says it in its list of brands
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class Coded:
    """A body in the codings that the header `content_encoding` lists.

    `feed` gives what a piece of it decodes to, in pieces of 256 KiB at most, so that whoever counts them can stop.
    Raises UnknownCoding, or BadBody for what is not in its coding; nothing is raised for a body that is empty.
    """

    def __init__(self, content_encoding: str) -> None:
        names = [name.strip().lower() for name in content_encoding.split(",")]
        self._names = [_ALIASES.get(name, name) for name in names if name not in _NONE]
        self._head: bytes | None = b"" if self._names else None  # until there is enough of it
        self._stages: list[_Inflater] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What the next piece of the body decodes to."""
        if self._head is not None:
            self._head += piece
            if len(self._head) < _HEAD:
                return
            piece = self._begin(self._head)
        yield from _through(self._stages, piece)

    def finish(self) -> Iterator[bytes]:
        """What is left when all of the body has been fed."""
        if self._head:
            head = self._begin(self._head)
            yield from _through(self._stages, head)
        for stage in self._stages:
            stage.finish()

    def _begin(self, head: bytes) -> bytes:
        self._head = None
        if not is_plain(head):
            for name in self._names:
                if name not in CODINGS:
                    raise UnknownCoding(f"the Content-Encoding {name[:20]!r} is not taken; one of {', '.join(CODINGS)}")
            if len(self._names) > _MOST:
                raise BadBody(f"the body has {len(self._names)} content codings; {_MOST} are taken at most")
            self._stages = [_Inflater(name) for name in reversed(self._names)]
        return head


def is_plain(head: bytes) -> bool:
    """Whether a body that begins so is an image, JSON or a form as it is."""
    text = head.lstrip(b" \t\r\n")
    return is_image(head) or text.startswith((b"{", b"[", b"--")) or head.startswith(_BYTE_ORDER_MARKS)


def _through(stages: list["_Inflater"], piece: bytes) -> Iterator[bytes]:
    if not stages:
        yield piece
        return
    for decoded in stages[0].feed(piece):
        yield from _through(stages[1:], decoded)


class _Inflater:
    """One coding. gzip may have several members (RFC 1952, 2.2); "deflate" is zlib's format, or the bare data."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._member: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                data = self._next(data)
                continue
            yield from self._inflate(self._member, data)
            data = self._member.unused_data
            if self._member.eof:
                self._member = None

    def finish(self) -> None:
        if self._member is not None:
            raise BadBody(f"the body's {self._coding} data is incomplete")

    def _inflate(self, member: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
        more = True
        while more:
            try:
                decoded = member.decompress(data, _STEP)
            except zlib.error as err:
                raise BadBody(f"the body is not {self._coding} data, as its Content-Encoding says") from err
            data = member.unconsumed_tail
            more = not member.eof and (bool(data) or len(decoded) == _STEP)
            if decoded:
                yield decoded

    def _next(self, data: bytes) -> bytes:
        """Begin a member with `data`, and give what is to be inflated of it."""
        self._members += 1
        if self._members == 1:
            self._member = zlib.decompressobj(_window_bits(self._coding, data))
        elif self._coding == "gzip" and not data.strip(b"\0"):
            return b""  # padding, which gzip ignores too
        elif self._coding == "gzip" and _GZIP.startswith(data[:2]) and self._members <= _MOST_MEMBERS:
            self._member = zlib.decompressobj(_window_bits("gzip", data))
        else:
            raise BadBody(f"{len(data)} bytes follow the body's {self._coding} data")
        return data


def _window_bits(coding: str, head: bytes) -> int:
    """zlib's name for the format of data that begins so (RFC 1950, 2.2: CMF and FLG are a multiple of 31)."""
    if coding == "gzip":
        return 16 + zlib.MAX_WBITS
    is_zlib = head[0] & 0x0F == 8 and (len(head) < 2 or int.from_bytes(head[:2], "big") % 31 == 0)
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
