"""What of a GIF makes the pixels of its first frame. Source: the GIF89a specification."""

from model.files.errors import Damaged

_HEAD_BYTES = 13
_EXTENSION, _IMAGE, _TRAILER, _CONTROL = 0x21, 0x2C, 0x3B, 0xF9


def essential(body: bytes) -> bytes:
    """The GIF in `body` with its first frame that has pixels, and no more: no comments, no other extensions.

    Raises Damaged where there is no such frame.
    """
    view = memoryview(body)
    at = _HEAD_BYTES + (_table(view[10]) if len(view) > 10 else 0)
    head, control = view[:at], view[:0]
    while at < len(view) and view[at] != _TRAILER:
        start = at
        if view[at] == _EXTENSION:
            at = _after_blocks(view, at + 2)
            if view[start + 1 : start + 3] == bytes((_CONTROL, 4)):
                control = view[start:at]
        elif view[at] == _IMAGE and len(view) > at + 9:
            at = _after_blocks(view, at + 10 + _table(view[at + 9]) + 1)
            if b"\0\0" not in (body[start + 5 : start + 7], body[start + 7 : start + 9]):
                return b"".join((head, control, view[start:at], bytes((0, _TRAILER))))
        else:
            at += 1
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
