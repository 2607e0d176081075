"""The parts of a PNG that make its pixels: a few chunks. Source: the PNG specification, sections 5, 11 and 14."""

import struct
import zlib
from collections.abc import Iterator

from model.files import exif
from model.files.bad_files import Damaged
from model.files.essential import Essential

MAX_CHUNKS = 50_000

_MAGIC_BYTES = 8
_HEADER, _PALETTE, _TRANSPARENCY, _DATA, _EXIF, _END = b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"
_TRANSPARENCY_BYTES = {0: 2, 2: 6, 3: 256}  # by colour type, at most; other types have an alpha channel


def png_essentials(body: bytes) -> Essential:
    """The PNG in `body` without what its pixels don't need.

    Kept are the header, palette, transparency and data; of an animation that is the default image. Transparency and
    Exif count if their checksum is right. Colour profiles and text are left out, with all that they might inflate to.
    Raises Damaged where there is no header, for more than MAX_CHUNKS chunks, and for Apple's CgBI.
    """
    view = memoryview(body)
    kept: list[bytes | memoryview] = [view[:_MAGIC_BYTES]]
    data: list[memoryview] = []
    depth = colour = 0
    orientation = exif.UPRIGHT
    seen: set[bytes] = set()
    as_they_are = _MAGIC_BYTES  # bytes of the magic number and of chunks that stay
    for kind, start, end in _chunks(view):
        chunk = view[start:end]
        content = chunk[8:-4]
        if kind == b"CgBI":
            raise Damaged("a PNG that Xcode has compressed for iOS (CgBI) is not supported; take the original")
        if kind == _DATA:
            data.append(content)
        elif kind in seen:
            continue
        elif kind == _HEADER and len(content) >= 13:
            depth, colour = content[8], content[9]
            kept.append(chunk)
        elif kind == _PALETTE and colour == 3 and not data:  # elsewhere a suggestion
            kept.append(chunk)
        elif kind == _TRANSPARENCY and not data and _is_right(chunk):
            kept.append(_transparency(bytes(content), depth, colour))
        elif kind == _EXIF and _is_right(chunk):
            orientation = exif.orientation(bytes(content))
            continue
        elif kind != _END:
            continue
        seen.add(kind)
        as_they_are += len(chunk) if kind != _TRANSPARENCY else 0
        if kind == _END:
            break
    if _HEADER not in seen:
        raise Damaged("the PNG image is damaged: it has no header")
    if as_they_are < len(body) or _END not in seen:
        body = b"".join([*kept, _chunk(_DATA, b"".join(data)), _chunk(_END, b"")])
    return Essential("PNG", body, orientation)


def _chunks(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk, the last of which may end before it should."""
    at = _MAGIC_BYTES
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(view):
            return
        length = int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if not kind.isalpha():
            return
        yield kind, at, at + 12 + length
        at += 12 + length
    raise Damaged(f"the PNG image has more than {MAX_CHUNKS:,} chunks")


def _is_right(chunk: memoryview) -> bool:
    """Whether a chunk is whole, with the right checksum."""
    length = int.from_bytes(chunk[:4], "big")
    return len(chunk) == 12 + length and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _transparency(content: bytes, depth: int, colour: int) -> bytes:
    """The chunk tRNS as Pillow understands it: in the units of the pixels that it makes. Nothing if it is none."""
    length = _TRANSPARENCY_BYTES.get(colour, 0)
    if colour == 3:
        return _chunk(_TRANSPARENCY, content[:length]) if content else b""
    if not length or len(content) < length:
        return b""
    samples = struct.unpack(f">{length // 2}H", content[:length])
    if colour == 0 and depth in (2, 4):
        samples = tuple(sample % (1 << depth) * (255 // ((1 << depth) - 1)) for sample in samples)
    if colour == 2 and depth == 16:
        samples = tuple(sample >> 8 for sample in samples)  # as Pillow takes the upper bits of pixels
    return _chunk(_TRANSPARENCY, struct.pack(f">{len(samples)}H", *samples))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
