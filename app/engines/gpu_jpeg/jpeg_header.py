"""Finds by their headers the JPEGs that a GPU may decode, the plain ones. All others are for the CPU.

The GPU gives the same pixels as the CPU, up to rounding, only where nothing in the file can be read in two ways. Rare,
odd and damaged files are therefore not plain. Nothing in here decodes anything.
"""

import re
import struct
from dataclasses import dataclass

_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAME, _SCAN = 0xC0, 0xDA  # of a baseline image
_TABLES = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # Huffman, quantisation, restarts, comments, applications
_SUBSAMPLINGS = {  # each component's number and how often it is sampled across and down
    bytes([1, 0x11]),
    bytes([1, 0x11, 2, 0x11, 3, 0x11]),  # 4:4:4
    bytes([1, 0x21, 2, 0x11, 3, 0x11]),  # 4:2:2
    bytes([1, 0x22, 2, 0x11, 3, 0x11]),  # 4:2:0
}
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # neither a stuffed byte nor a restart
_SEARCHED_AT_A_TIME = 1 << 17  # bytes; a search keeps all other threads from running
_MOST_SEGMENTS_BEFORE_SCAN = 1000

_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_UPRIGHT = [3, 1, 1]  # one SHORT with the value 1


class _NotPlain(Exception):
    pass


@dataclass(frozen=True)
class PlainJpeg:
    """An image of `width` x `height` pixels in the first `length` bytes of a file."""

    width: int
    height: int
    length: int


def plain(body: bytes, max_pixels: int) -> PlainJpeg | None:
    """Size and length of the JPEG in `body`; None unless it is plain, complete and of at most `max_pixels`.

    Plain is baseline, 8 bits, grey or YCbCr at 4:4:4, 4:2:2 or 4:2:0, in one scan and upright, without an Adobe
    marker. Sources: ITU-T T.81 annex B, JFIF 1.02, Exif 2.3 section 4.6.
    """
    try:
        return _read(body, max_pixels)
    except (_NotPlain, struct.error, IndexError):
        return None


def _read(body: bytes, max_pixels: int) -> PlainJpeg:
    _require(body.startswith(_START))
    position = len(_START)
    frame = b""
    exif = 0
    for _ in range(_MOST_SEGMENTS_BEFORE_SCAN):
        prefix, marker, length = struct.unpack_from(">BBH", body, position)
        _require(prefix == 0xFF and length >= 2)
        position += 2
        segment = body[position + 2 : position + length]
        position += length
        if marker == _SCAN:
            break
        if marker == _FRAME:
            _require(not frame)
            frame = segment
        else:
            exif += marker == 0xE1 and segment.startswith(_EXIF)  # several would be one for Pillow
            _require(exif <= 1 and marker in _TABLES and _harmless(marker, segment))
    else:
        raise _NotPlain
    width, height = _size(frame)
    _require(0 < width * height <= max_pixels and _is_whole(segment, frame))
    return PlainJpeg(width, height, _end(body, position))


def _end(body: bytes, scan: int) -> int:
    """Where the image ends whose scan starts at `scan`."""
    for start in range(scan, len(body), _SEARCHED_AT_A_TIME):
        marker = _MARKER_IN_SCAN.search(body, start, start + _SEARCHED_AT_A_TIME + 1)  # one that starts in these bytes
        if marker is not None:
            _require(marker[0] == _END)
            return marker.end()
    raise _NotPlain


def _size(frame: bytes) -> tuple[int, int]:
    """Width and height that the frame header says, which must be of the plain kind."""
    precision, height, width, count = struct.unpack_from(">BHHB", frame)
    components = frame[6:]
    _require(precision == 8 and len(components) == 3 * count)
    sampling = b"".join(components[start : start + 2] for start in range(0, len(components), 3))
    _require(sampling in _SUBSAMPLINGS)
    return width, height


def _is_whole(scan: bytes, frame: bytes) -> bool:
    """Whether the scan has all components of the frame, in its order, and all coefficients of each."""
    count = frame[5]
    return len(scan) == 4 + 2 * count and scan[0] == count and scan[1:-3:2] == frame[6::3] and scan[-3:] == b"\0\x3f\0"


def _harmless(marker: int, segment: bytes) -> bool:
    """Whether the segment changes nothing about the pixels or how they are turned."""
    if marker == 0xEE:
        return not segment.startswith(b"Adobe")  # it may say that the colours are others
    if marker != 0xE1:
        return True
    if segment.startswith(_EXIF):
        return _is_upright(segment[len(_EXIF) :])
    return b"Orientation" not in segment  # as XMP says it


def _is_upright(exif: bytes) -> bool:
    """Whether a TIFF header and its first directory leave the image as it is; struct.error where they are damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return False
    magic, start = struct.unpack_from(f"{order}HI", exif, 2)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    if magic != 42:
        return False
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, *value = struct.unpack_from(f"{order}HHIH", exif, entry)
        if tag == _ORIENTATION and value != _UPRIGHT:
            return False
    return True


def _require(condition: bool) -> None:
    if not condition:
        raise _NotPlain
