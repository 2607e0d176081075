"""Bytes to pixels: decode (model.files), turn upright, flatten to RGB, resize and crop."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import BadImage, NotAnImage, TooLarge
from model.files.bad_files import BadFile, TooManyPixels, UnknownFormat
from model.files.pixels import TURNS, eight_bits, opened, over_white
from model.spec import Preprocessing

Pixels = NDArray[np.uint8]

_MARGIN = 2  # times the pixels of the resized image, along each side, has a JPEG at least that is decoded smaller
_SIDEWAYS = {TURNS[number] for number in (5, 6, 7, 8)}
_ENDS_FIRST = [{TURNS[number] for number in numbers} for numbers in ((2, 3, 6, 7), (3, 4, 7, 8))]  # on the left, above


@dataclass(frozen=True)
class Window:
    """The part of an axis that is seen: from `start` to `end`, counted from the pixel `first`.

    The filter reaches no pixel before `first`, and none from `last` on.
    """

    first: int
    last: int
    start: float
    end: float


def decode(body: bytes, steps: Preprocessing, max_pixels: int, *, scaled_jpeg: bool = False) -> Pixels:
    """The pixels that the network sees of the image in `body`: RGB (crop, crop, 3).

    The first frame counts, EXIF orientation is applied and all other metadata ignored, transparency lies over white,
    16-bit channels keep their upper eight bits. Resizing is Pillow's bicubic, antialiased. With `scaled_jpeg` a JPEG is
    decoded 2, 4 or 8 times smaller if it then still has _MARGIN times the pixels along each side that the resized image
    has. Raises NotAnImage, TooLarge (more than `max_pixels`, found before decoding) or BadImage.
    """
    try:
        with opened(body, max_pixels) as file:
            image, size = file.image, file.image.size
            if scaled_jpeg and image.format == "JPEG":
                image.draft(None, (_MARGIN * steps.resize,) * 2)  # those are the fewest that it leaves
            smaller = _times_smaller(image.size, size)
            image.load()
            if file.turn is None:
                return _resize_and_crop(image, size, steps, smaller)
            size = size[::-1] if file.turn in _SIDEWAYS else size
            return _resize_and_crop(image.transpose(file.turn), size, steps, smaller, file.turn)
    except UnknownFormat as err:
        raise NotAnImage(str(err)) from err
    except TooManyPixels as err:
        raise TooLarge(str(err)) from err
    except BadFile as err:
        raise BadImage(str(err)) from err


def _times_smaller(decoded: tuple[int, int], size: tuple[int, int]) -> int:
    """How many times smaller than `size` an image was decoded; libjpeg rounds lengths up."""
    return next(times for times in (1, 2, 4, 8) if tuple(-(-length // times) for length in size) == decoded)


def windows(size: tuple[int, int], steps: Preprocessing) -> tuple[Window, Window]:
    """What of the columns and of the rows becomes the network's image, of `size` being (width, height) in pixels.

    Sizes and offsets are rounded as torchvision does for Resize and CenterCrop.
    """
    width, height = (_window(length, min(size), steps, decoded=length) for length in size)
    return width, height


def _window(
    length: int, short: int, steps: Preprocessing, *, decoded: int, smaller: int = 1, origin: float = 0
) -> Window:
    """Of an axis of `length` pixels; of `decoded` ones where that was made `smaller`, with pixel 0 at `origin`."""
    resized = steps.resize * length // short
    offset = round((resized - steps.crop) / 2)
    scale = length / resized / smaller
    reach = math.ceil(2 * max(scale, 1)) + 1  # of the bicubic filter, in pixels
    start, end = origin + offset * scale, origin + (offset + steps.crop) * scale
    first, last = max(math.floor(start) - reach, 0), min(math.ceil(end) + reach, decoded)
    return Window(first, last, start - first, end - first)


def _resize_and_crop(
    image: Image.Image,
    size: tuple[int, int],
    steps: Preprocessing,
    smaller: int = 1,
    turn: Image.Transpose | None = None,
) -> Pixels:
    """Resize the shorter side and crop the centre in one call.

    `image` has been turned by `turn`, and would be of `size` if it had not been decoded `smaller` times smaller. Only
    what the filter reaches is turned to RGB: a large or very long image costs no more copies than it must.
    """
    x, y = (
        # The last of the fewer pixels may stand for less than `smaller`, and may have been turned to the front.
        _window(
            length,
            min(size),
            steps,
            decoded=decoded,
            smaller=smaller,
            origin=decoded - length / smaller if turn in ends_first else 0,
        )
        for length, decoded, ends_first in zip(size, image.size, _ENDS_FIRST, strict=True)
    )
    region = image.crop((x.first, y.first, x.last, y.last))
    box = (x.start, y.start, x.end, y.end)
    resized_region = eight_bits(region).resize((steps.crop, steps.crop), Image.Resampling.BICUBIC, box=box)
    return np.asarray(over_white(resized_region))
