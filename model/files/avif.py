"""The parts of an AVIF that make its pixels. Source: ISO/IEC 14496-12, sections 4.2 and 8.11."""

import re
from collections.abc import Iterator

from model.files.bad_files import Damaged
from model.files.essential import Essential

MAX_OUTER_BOXES = 1000  # files have three or four

_EXIF_ITEM = re.compile(rb"(infe[\x02\x03]...(?:..|....)..)Exif", re.DOTALL)


def avif_essentials(body: bytes) -> Essential:
    """The AVIF in `body` without its Exif, which Pillow would fail at if it is broken.

    The image is turned only by its properties irot and imir, as browsers do (MIAF, ISO/IEC 23000-22, section 7.3.6.2).
    Raises Damaged if its data or what describes it is cut off.
    """
    for kind, start, end in _boxes(body):
        if kind in (b"meta", b"mdat", b"moov") and end > len(body):
            raise Damaged("the AVIF image is incomplete: the file ends before its last pixels")
        if kind == b"meta":
            body = body[:start] + _EXIF_ITEM.sub(rb"\1free", body[start:end]) + body[end:]
    return Essential("AVIF", body)


def _boxes(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the outermost boxes."""
    at = 0
    for _ in range(MAX_OUTER_BOXES):
        length, kind = int.from_bytes(body[at : at + 4], "big"), body[at + 4 : at + 8]
        if length == 1:
            length = int.from_bytes(body[at + 8 : at + 16], "big")
        if len(kind) < 4 or length < 8:  # to the end of the file, or no box
            return
        yield kind, at, at + length
        at += length
