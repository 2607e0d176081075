"""Decodes a body's content coding as it arrives (RFC 9110, 8.4).

The bytes decide: object stores and libraries leave a Content-Encoding on uncoded bytes, and write names into it that
are not codings. A body that is recognised as an image, JSON, a form or a page is not decoded, whatever its header says.
"""

import zlib
from collections.abc import Iterator, Sequence

from app.decoding.content_kind import looks_like_image
from app.errors import BadBody, UnknownCoding
from model.files.formats import HEAD_BYTES, is_named

CODINGS = ("gzip", "deflate")

_IDENTITY = ("", "identity")
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3
# IANA's HTTP Content Coding Registry, and codings that are used without being in it
_UNSUPPORTED = (
    *("aes128gcm", "br", "bzip2", "compress", "dcb", "dcz", "exi", "lz4", "lzma", "pack200-gzip", "sdch", "snappy"),
    *("x-bzip2", "x-compress", "xz", "zstd"),
)
_MAX_GZIP_MEMBERS = 1000  # parallel compressors make one of each 64 KiB
_MAX_STEP_INPUT_BYTES = 1 << 16
_MAX_STEP_OUTPUT_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class ContentDecoder:
    """Decodes a body in the coding that the header `content_encoding` names.

    `feed` works in steps, so that the caller can stop at a limit and other tasks can run in between: a step reads at
    most 64 KiB and yields at most 256 KiB, or nothing. Raises UnknownCoding, or BadBody for data that is not in its
    coding or in several codings. An empty body is valid in every coding.
    """

    def __init__(self, content_encoding: str) -> None:
        names = [name.strip().lower() for name in content_encoding.split(",")]
        self._names = [_ALIASES.get(name, name) for name in names if name not in _IDENTITY]
        self._head: bytes | None = b"" if self._names else None  # collected until it shows the kind of data
        self._inflater: _Inflater | None = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The decoded bytes of the next piece of the body."""
        if self._head is not None:
            self._head += piece
            if len(self._head) < HEAD_BYTES:
                return
            piece = self._begin(self._head)
        yield from self._decoded(piece)

    def finish(self) -> Iterator[bytes]:
        """The decoded rest, after the last piece. Raises BadBody if the data is incomplete."""
        if self._head:
            yield from self._decoded(self._begin(self._head))
        if self._inflater is not None:
            self._inflater.finish()

    def _begin(self, head: bytes) -> bytes:
        self._head = None
        if not looks_uncoded(head):
            self._inflater = _Inflater(_coding(self._names, head))
        return head

    def _decoded(self, piece: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            yield piece
            return
        for start in range(0, len(piece), _MAX_STEP_INPUT_BYTES):
            yield from self._inflater.feed(piece[start : start + _MAX_STEP_INPUT_BYTES])


def looks_uncoded(head: bytes) -> bool:
    """Whether a body that begins with `head` is an uncoded image of any format, a page, JSON or a form."""
    text = head.lstrip(b" \t\r\n")
    return (
        looks_like_image(head)
        or text.startswith((b"{", b"[", b"--"))
        or head.startswith(_BYTE_ORDER_MARKS)
        or is_named(head[:HEAD_BYTES])
    )


def _coding(names: Sequence[str], head: bytes) -> str:
    """The member of CODINGS that a body is in, by its header's `names` and its first bytes.

    Names that are not codings, such as aws-chunked or a charset, are ignored where the bytes are in a coding that is
    named too.
    """
    supported = [name for name in names if name in CODINGS]
    others = [name for name in names if name not in CODINGS]
    if others and not (
        supported and (head.startswith(_GZIP_MAGIC) or _is_zlib(head)) and not {*others} & {*_UNSUPPORTED}
    ):
        raise UnknownCoding(f"the Content-Encoding {others[0][:20]!r} is not supported: use {' or '.join(CODINGS)}")
    if len(supported) > 1:
        names = ", ".join(supported)[:40]
        raise BadBody(f"the Content-Encoding has {len(supported)} codings, {names}: use one at most")
    return supported[0]


class _Inflater:
    """Decodes one coding: gzip, of several members (RFC 1952, 2.2), or "deflate", in zlib's format or bare."""

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
        unfinished = True
        while unfinished:
            try:
                decoded = member.decompress(data, _MAX_STEP_OUTPUT_BYTES)
            except zlib.error as err:
                raise BadBody(f"the body is not {self._coding} data, as its Content-Encoding says") from err
            data = member.unconsumed_tail
            unfinished = not member.eof and (bool(data) or len(decoded) == _MAX_STEP_OUTPUT_BYTES)
            yield decoded

    def _next(self, data: bytes) -> bytes:
        """Begin a member with `data`; the bytes to inflate, none for padding."""
        self._members += 1
        if self._members == 1:
            self._member = zlib.decompressobj(_window_bits(self._coding, data))
        elif self._coding == "gzip" and not data.strip(b"\0"):
            return b""  # padding, which gzip ignores too
        elif self._coding == "gzip" and _GZIP_MAGIC.startswith(data[:2]) and self._members <= _MAX_GZIP_MEMBERS:
            self._member = zlib.decompressobj(_window_bits("gzip", data))
        else:
            raise BadBody(f"{len(data)} bytes follow the body's {self._coding} data")
        return data


def _window_bits(coding: str, head: bytes) -> int:
    """zlib's `wbits` for data that begins with `head`: gzip's or zlib's format, as its header says, or bare data."""
    is_bare = coding == "deflate" and not head.startswith(_GZIP_MAGIC) and not _is_zlib(head)
    return -zlib.MAX_WBITS if is_bare else 32 + zlib.MAX_WBITS


def _is_zlib(head: bytes) -> bool:
    """Whether data that begins with `head` is in zlib's format (RFC 1950, 2.2: CMF and FLG are a multiple of 31)."""
    return head[0] & 0x0F == 8 and (len(head) < 2 or int.from_bytes(head[:2], "big") % 31 == 0)
