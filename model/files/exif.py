"""The orientation in Exif, the only part of it that changes the pixels. Source: Exif 2.3, section 4.6; TIFF 6.0."""

import struct

UPRIGHT = 1

_ORIENTATION = 0x0112
_STRUCT_FORMATS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG


def orientation(exif: bytes) -> int:
    """The orientation in a TIFF header's first directory; UPRIGHT if it is damaged or has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return UPRIGHT
        magic, start = struct.unpack_from(f"{order}HI", exif, 2)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, at)
            if magic == 42 and tag == _ORIENTATION and kind in _STRUCT_FORMATS and count == 1:
                (value,) = struct.unpack_from(order + _STRUCT_FORMATS[kind], exif, at + 8)
                return int(value)
    except struct.error:
        pass
    return UPRIGHT
