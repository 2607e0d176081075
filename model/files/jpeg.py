"""The parts of a JPEG that make its pixels: frame, tables and scans. Source: ITU-T T.81, annex B."""

import re

from model.files import exif
from model.files.bad_files import Damaged
from model.files.essential import Essential

END = b"\xff\xd9"
MAX_SCANS = 100  # each goes over all pixels; encoders make about ten
MAX_SEGMENTS = 50_000  # cameras write tens, and hundreds where there are large profiles or thermal data

_SOI, _EOI, _SOS, _EXIF, _JFIF, _ADOBE = 0xD8, 0xD9, 0xDA, 0xE1, 0xE0, 0xEE
_EXIF_HEAD = b"Exif\0\0"
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # Huffman, arithmetic conditioning, quantisation, restart interval
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_OTHER_FRAMES = {
    **dict.fromkeys((0xC3, 0xCB, 0xF7), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xDE), "hierarchical"),
}
_WITHOUT_SEGMENT = {0x01, *range(0xD0, 0xD8)}  # TEM and restarts
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_IN_SCAN = re.compile(rb"\xff(?!\x00)[^\xff\xd0-\xd7]")  # neither a stuffed byte nor fill nor a restart


def jpeg_essentials(body: bytes) -> Essential:
    """The JPEG in `body` without what its pixels don't need.

    Left out are application segments, comments, bytes between segments and all bytes after the end. Kept are those
    of JFIF and Adobe that decide what the components are; the first Exif says how the image is turned. Raises
    Damaged for more than MAX_SCANS scans or MAX_SEGMENTS segments, and for kinds that are not supported.
    """
    view = memoryview(body)
    kept = [view[:2]]
    at, scans, segments, ended = 2, 0, 0, False
    orientation: int | None = None
    while found := _MARKER.search(body, at):
        code, at, segments = found[1][0], found.end(), segments + 1
        if segments > MAX_SEGMENTS:
            raise Damaged(f"the JPEG image has more than {MAX_SEGMENTS:,} segments")
        if code == _EOI or (code == _SOI and scans):  # the next image, where the end of this one is missing
            ended = code == _EOI
            break
        if code in _WITHOUT_SEGMENT or code == _SOI:
            continue
        end = at + int.from_bytes(view[at : at + 2], "big")
        if end < at + 2 or end > len(body):
            break  # damaged, or cut off
        segment = body[at + 2 : end]
        if code == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise Damaged(f"the JPEG image has more than {MAX_SCANS} scans")
            following = _MARKER_IN_SCAN.search(body, end)
            end = following.start() if following else len(body)
        elif code == _EXIF and segment.startswith(_EXIF_HEAD):
            orientation = orientation or exif.orientation(segment[len(_EXIF_HEAD) :])
            at = end
            continue
        elif not (code in _TABLES or _is_frame(code, segment) or _says_colours(code, segment)):
            at = end
            continue
        kept.append(view[found.start() : end])
        at = end
    if not scans:
        raise Damaged("the JPEG image is incomplete: it ends before its pixels")
    kept.append(memoryview(END))
    is_all = ended and sum(map(len, kept)) == len(body)  # which saves a copy
    return Essential("JPEG", body if is_all else b"".join(kept), orientation or exif.UPRIGHT, ended)


def _is_frame(code: int, segment: bytes) -> bool:
    kind = _OTHER_FRAMES.get(code)
    if kind:
        raise Damaged(f"a {kind} JPEG is not supported; convert it to a baseline or progressive one, or to PNG")
    if code not in _FRAMES or len(segment) < 6:
        return False
    bits, height, components = segment[0], segment[1:3], segment[5]
    if bits != 8:
        raise Damaged(f"a JPEG of {bits} bits is not supported; convert it to one of 8 bits")
    if height == b"\0\0":
        raise Damaged("a JPEG whose height follows its first scan (DNL) is not supported; save it anew")
    if components not in (1, 3, 4):
        raise Damaged(f"a JPEG of {components} components is not supported; convert it to RGB")
    return True


def _says_colours(code: int, segment: bytes) -> bool:
    """Whether libjpeg takes from the segment what the components are: it wants 14 bytes of JFIF, 12 of Adobe."""
    return (code == _JFIF and segment[:5] == b"JFIF\0" and len(segment) >= 14) or (
        code == _ADOBE and segment[:5] == b"Adobe" and len(segment) >= 12
    )
