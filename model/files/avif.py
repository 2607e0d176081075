"""What of an AVIF makes its pixels. Source: ISO/IEC 14496-12, sections 4.2 and 8.11."""

import re

_EXIF_ITEM = re.compile(rb"(infe[\x02\x03]...(?:..|....)..)Exif", re.DOTALL)


def essential(body: bytes) -> bytes:
    """The AVIF in `body` without its Exif, which Pillow would fail at if it is broken.

    The image is turned by its properties irot and imir alone, as browsers do (MIAF, ISO/IEC 23000-22, section 7.3.6.2).
    """
    start, end = _meta(body)
    return body[:start] + _EXIF_ITEM.sub(rb"\1free", body[start:end]) + body[end:]


def _meta(body: bytes) -> tuple[int, int]:
    """Where the box that describes the items starts and ends; it has no length where there is none."""
    at = 0
    while at + 8 <= len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        if body[at + 4 : at + 8] == b"meta":
            return at, at + length
        if length < 8:  # to the end of the file, or of 64 bits
            break
        at += length
    return 0, 0
