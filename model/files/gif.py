"""The parts of a GIF that make the pixels of its first frame. Source: the GIF89a specification."""

import re

from model.files.bad_files import Damaged
from model.files.essential import Essential

MAX_BLOCKS = 50_000

_HEAD_BYTES = 13
_EXTENSION, _TRAILER = 0x21, b";"
_CONTROL = b"\xf9\x04"
_BLOCK = re.compile(rb"[\x21\x2c\x3b]")


def gif_essentials(body: bytes) -> Essential:
    """The GIF in `body` with its first frame that has pixels, and no more: no comments, no other extensions.

    Raises Damaged where there is no such frame among the first MAX_BLOCKS blocks.
    """
    view = memoryview(body)
    at = _HEAD_BYTES + (_table(view[10]) if len(view) > 10 else 0)
    head, control = view[:at], view[:0]
    for _ in range(MAX_BLOCKS):
        found = _BLOCK.search(body, at)
        if found is None or found[0] == _TRAILER:
            break
        at = start = found.start()
        if view[at] == _EXTENSION:
            at = _after_blocks(view, at + 2)
            if body[start + 1 : start + 3] == _CONTROL:
                control = view[start:at]
        elif len(view) <= at + 9:
            break
        else:
            at = _after_blocks(view, at + 10 + _table(view[at + 9]) + 1)
            if b"\0\0" not in (body[start + 5 : start + 7], body[start + 7 : start + 9]):
                return Essential("GIF", b"".join((head, control, view[start:at], b"\0" + _TRAILER)))
    raise Damaged("the GIF image is incomplete: it has no frame")


def _table(flags: int) -> int:
    """The bytes of the colour table that `flags` of the screen or of a frame speak of."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(view: memoryview, at: int) -> int:
    """Where the sub-blocks that start at `at` end."""
    end = len(view)
    while at < end:
        length = view[at]
        at += 1 + length
        if not length:
            break
    return min(at, end)
