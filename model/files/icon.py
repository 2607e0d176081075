"""The image of a Windows icon or cursor: the largest of those in the file, which is a PNG or a bitmap with a mask."""

import struct

from model.files import png
from model.files.bad_files import Damaged
from model.files.essential import Essential

_PNG = b"\x89PNG\r\n\x1a\n"
_ENTRY_BYTES, _ONE_ENTRY = 16, 22
_LARGEST_SIDE = 256


def icon_essentials(body: bytes) -> Essential:
    """The largest image in `body`, of the most colours: a PNG, or an icon of one bitmap.

    Raises Damaged where there is none, or a bitmap is of another size than it should, which is 256 pixels at most.
    """
    count = int.from_bytes(body[4:6], "little")
    directory = body[6 : 6 + count * _ENTRY_BYTES]
    entries = [
        ((width or _LARGEST_SIDE, height or _LARGEST_SIDE), depth, length, offset)
        for width, height, _, _, _, depth, length, offset in struct.iter_unpack(
            "<BBBBHHII", directory[: len(directory) // _ENTRY_BYTES * _ENTRY_BYTES]
        )
        if length and offset + length <= len(body)
    ]
    if not entries:
        raise Damaged("the ICO image is incomplete: none of its images is there")
    is_cursor = body[2] == 2  # whose entries have a place where others have the number of colours
    size, _, length, offset = max(entries, key=lambda entry: (entry[0][0] * entry[0][1], not is_cursor and entry[1]))
    content = body[offset : offset + length]
    return png.png_essentials(content) if content.startswith(_PNG) else Essential("ICO", _of_bitmap(content, size))


def _of_bitmap(content: bytes, size: tuple[int, int]) -> bytes:
    """An icon of one bitmap, of `size` in pixels."""
    if len(content) < 40 or content[:4] != b"\x28\0\0\0":
        raise Damaged("the ICO image is damaged: its bitmap has no header")
    width, height, _, depth, compression = struct.unpack_from("<iiHHI", content, 4)
    if (width, height) != (size[0], 2 * size[1]):
        raise Damaged("the ICO image is damaged: its bitmap is of another size than its directory says")
    if compression:
        raise Damaged("an ICO image with a compressed bitmap is not supported; convert it to PNG")
    if depth == 32:
        content = _opaque_if_empty(content, 4 * width * height // 2)
    sides = bytes(side % _LARGEST_SIDE for side in size)
    return b"\0\0\1\0\1\0" + sides + struct.pack("<BBHHII", 0, 0, 1, depth, len(content), _ONE_ENTRY) + content


def _opaque_if_empty(content: bytes, length: int) -> bytes:
    """The bitmap, opaque where its alpha channel says nothing, as before Windows XP."""
    pixels = bytearray(content[40 : 40 + length])
    if any(pixels[3::4]):
        return content
    pixels[3::4] = b"\xff" * len(pixels[3::4])
    return content[:40] + bytes(pixels) + content[40 + length :]
