"""A body's content coding, undone as it arrives (RFC 9110, 8.4).

The bytes decide: object stores and libraries leave a Content-Encoding on bytes that are in none, and write names into
it that are no codings. A body that plainly is an image, JSON, a form or a page is taken as it is, whatever coding its
header names.
"""

import zlib
from collections.abc import Iterator, Sequence

from app.decoding.content_kind import looks_like_image
from app.errors import BadBody, UnknownCoding
from model.files.formats import HEAD_BYTES, is_named

CODINGS = ("gzip", "deflate")

_NONE = ("", "identity")
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3
# IANA's HTTP Content Coding Registry, and what is used without being in it
_NOT_TAKEN = (
    *("aes128gcm", "br", "bzip2", "compress", "dcb", "dcz", "exi", "lz4", "lzma", "pack200-gzip", "sdch", "snappy"),
    *("x-bzip2", "x-compress", "xz", "zstd"),
)
_MOST_MEMBERS = 1000  # of one gzip body: parallel compressors make one of each 64 KiB
_STEP_IN, _STEP_OUT = 1 << 16, 1 << 18  # bytes that one step reads and gives at most
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class Coded:
    """A body in the coding that the header `content_encoding` names.

    `feed` gives what a piece of it decodes to, step by step, so that whoever counts can stop and others have their
    turn: a step reads 64 KiB and gives 256 KiB at most, or nothing. Raises UnknownCoding, or BadBody for what is not in
    its coding or in several; nothing is raised for a body that is empty.
    """

    def __init__(self, content_encoding: str) -> None:
        names = [name.strip().lower() for name in content_encoding.split(",")]
        self._names = [_ALIASES.get(name, name) for name in names if name not in _NONE]
        self._head: bytes | None = b"" if self._names else None  # until there is enough of it
        self._inflater: _Inflater | None = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What the next piece of the body decodes to."""
        if self._head is not None:
            self._head += piece
            if len(self._head) < HEAD_BYTES:
                return
            piece = self._begin(self._head)
        yield from self._decoded(piece)

    def finish(self) -> Iterator[bytes]:
        """What is left when all of the body has been fed."""
        if self._head:
            yield from self._decoded(self._begin(self._head))
        if self._inflater is not None:
            self._inflater.finish()

    def _begin(self, head: bytes) -> bytes:
        self._head = None
        if not is_plain(head):
            self._inflater = _Inflater(_coding(self._names, head))
        return head

    def _decoded(self, piece: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            yield piece
            return
        for start in range(0, len(piece), _STEP_IN):
            yield from self._inflater.feed(piece[start : start + _STEP_IN])


def is_plain(head: bytes) -> bool:
    """Whether a body that begins so is an image of any format, a page, JSON or a form as it is."""
    text = head.lstrip(b" \t\r\n")
    return (
        looks_like_image(head)
        or text.startswith((b"{", b"[", b"--"))
        or head.startswith(_BYTE_ORDER_MARKS)
        or is_named(head[:HEAD_BYTES])
    )


def _coding(names: Sequence[str], head: bytes) -> str:
    """The one of CODINGS that a body is in which begins so.

    Names that are no codings, such as aws-chunked or a charset, are passed over where the bytes are in one that is
    named too.
    """
    taken = [name for name in names if name in CODINGS]
    others = [name for name in names if name not in CODINGS]
    if others and not (taken and (head.startswith(_GZIP) or _is_zlib(head)) and not {*others} & {*_NOT_TAKEN}):
        raise UnknownCoding(f"the Content-Encoding {others[0][:20]!r} is not taken; one of {', '.join(CODINGS)}")
    if len(taken) > 1:
        raise BadBody(f"the Content-Encoding names {len(taken)} codings, {', '.join(taken)[:40]}; one at most is taken")
    return taken[0]


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
                decoded = member.decompress(data, _STEP_OUT)
            except zlib.error as err:
                raise BadBody(f"the body is not {self._coding} data, as its Content-Encoding says") from err
            data = member.unconsumed_tail
            more = not member.eof and (bool(data) or len(decoded) == _STEP_OUT)
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
    """zlib's name for the format of data that begins so: gzip's or zlib's, whichever it is, or the bare data."""
    is_bare = coding == "deflate" and not head.startswith(_GZIP) and not _is_zlib(head)
    return -zlib.MAX_WBITS if is_bare else 32 + zlib.MAX_WBITS


def _is_zlib(head: bytes) -> bool:
    """Whether data that begins so is in zlib's format (RFC 1950, 2.2: CMF and FLG are a multiple of 31)."""
    return head[0] & 0x0F == 8 and (len(head) < 2 or int.from_bytes(head[:2], "big") % 31 == 0)
