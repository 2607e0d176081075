"""Which part of an image the network sees, after resizing and cropping; arithmetic alone, without pixels.

Sizes and offsets are rounded as torchvision does for Resize and CenterCrop.
"""

import math
from dataclasses import dataclass

from model.spec import Preprocessing

Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True)
class Window:
    """The part of an axis that the network sees.

    Attributes:
        first: the first pixel that the bicubic filter reads.
        last: the pixel after the last one that it reads.
        start: where the window starts, in pixels from `first`.
        end: where it ends, in pixels from `first`.
    """

    first: int
    last: int
    start: float
    end: float


@dataclass(frozen=True)
class CropRegion:
    """The rectangle of an upright image that the network sees, in the image's pixels."""

    left: float
    top: float
    width: float
    height: float


def windows(size: Size, steps: Preprocessing) -> tuple[Window, Window]:
    """The windows of the columns and of the rows of an upright image of `size`, (width, height) in pixels."""
    width, height = (axis_window(length, min(size), steps, decoded=length) for length in size)
    return width, height


def crop_region(size: Size, steps: Preprocessing) -> CropRegion:
    """The region of an upright image of `size`, (width, height) in pixels."""
    x, y = windows(size, steps)
    return CropRegion(x.first + x.start, y.first + y.start, x.end - x.start, y.end - y.start)


def axis_window(
    length: int, short: int, steps: Preprocessing, *, decoded: int, scale_down: int = 1, origin: float = 0
) -> Window:
    """The window of one axis.

    Args:
        length: the axis in pixels of the whole image.
        short: the shorter side of the whole image.
        steps: the sides of the resized and of the cropped image.
        decoded: the axis in pixels of the decoded image, which may be `scale_down` times smaller.
        scale_down: 1, or 2, 4 or 8 for a JPEG that was decoded smaller.
        origin: where pixel 0 of the whole image lies in the decoded one.
    """
    resized = steps.resize * length // short
    offset = round((resized - steps.crop) / 2)
    scale = length / resized / scale_down
    reach = math.ceil(2 * max(scale, 1)) + 1  # of the bicubic filter, in pixels
    start, end = origin + offset * scale, origin + (offset + steps.crop) * scale
    first, last = max(math.floor(start) - reach, 0), min(math.ceil(end) + reach, decoded)
    return Window(first, last, start - first, end - first)
