"""The parts of a WebP that make its pixels: a few of its chunks. Source: RFC 9649, section 2."""

import struct

from model.files import exif
from model.files.bad_files import Damaged
from model.files.essential import Essential

MAX_CHUNKS = 50_000

_STILL, _FRAME, _CANVAS, _EXIF = (b"VP8 ", b"VP8L"), b"ANMF", b"VP8X", b"EXIF"
_HEAD_BYTES = 12
_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # a profile, Exif, XMP


def webp_essentials(body: bytes) -> Essential:
    """The WebP in `body` without what its pixels don't need.

    Left out are colour profiles, Exif, XMP, unknown chunks, frames but for the first, and bytes behind the last chunk;
    the length that the file gives itself is made right. Raises Damaged where no whole image is among the first
    MAX_CHUNKS chunks.
    """
    view = memoryview(body)
    kept: list[bytes | memoryview] = []
    seen: set[bytes] = set()
    orientation = exif.UPRIGHT
    at = _HEAD_BYTES
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(view):
            break
        kind, length = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        start, at = at, at + 8 + length + length % 2
        has_image = bool(seen & {*_STILL, _FRAME})
        if kind in seen or (has_image and kind != _EXIF):
            continue
        if kind == _CANVAS and not seen and length >= 10:
            flags = view[start + 8] & ~_METADATA_FLAGS
            kept += [view[start : start + 8], bytes([flags]), view[start + 9 : at]]
        elif kind == _EXIF:
            orientation = exif.orientation(bytes(view[start + 8 : at]).removeprefix(b"Exif\0\0"))
        elif kind in (*_STILL, _FRAME, b"ALPH", b"ANIM"):
            if kind in (*_STILL, _FRAME) and start + 8 + length > len(view):
                raise Damaged("the WebP image is incomplete: the file ends before its last pixels")
            kept.append(view[start:at])
        else:
            continue
        seen.add(kind)
    if not seen & {*_STILL, _FRAME}:
        raise Damaged("the WebP image is incomplete: it ends before its pixels")
    chunks = b"".join(kept)
    chunks += bytes(len(chunks) % 2)
    return Essential("WEBP", b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks, orientation)
