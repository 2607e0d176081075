"""What the network sees of an image file: upright, 8 bits of RGB, over white, resized and cropped. Imports no torch.

The service, `crossvit evaluate`, training and calibration all make their pixels here.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.files.pixels import TRUSTED_MAX_PIXELS, opened
from model.spec import Preprocessing

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB

_TURNS = {  # to upright, by Exif's orientation; Exif 2.3, section 4.6.4
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_AXES = (5, 6, 7, 8)  # orientations
_REVERSES_AXIS = ((2, 3, 6, 7), (3, 4, 7, 8))  # orientations whose upright image starts at the stored end, (x, y)
_SCALED_JPEG_MARGIN = 2


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


def preprocess(
    body: bytes, steps: Preprocessing, max_pixels: int = TRUSTED_MAX_PIXELS, *, scaled_jpeg: bool = False
) -> Pixels:
    """The pixels (crop, crop, 3) that the network sees of the image file `body`.

    The first frame counts, EXIF orientation is applied and all other metadata ignored, transparency lies over white,
    16-bit channels keep their upper eight bits. Resizing is Pillow's bicubic, antialiased. With `scaled_jpeg` a JPEG is
    decoded 2, 4 or 8 times smaller if along each side it still has twice the pixels of the resized image. Raises
    BadFile: UnknownFormat, TooManyPixels (before decoding) or Damaged.
    """
    with opened(body, max_pixels) as file:
        image, size = file.image, file.image.size
        if scaled_jpeg and image.format == "JPEG":
            image.draft(None, (_SCALED_JPEG_MARGIN * steps.resize,) * 2)  # Pillow keeps at least these pixels
        scale_down = _scale_down(size, image.size)
        image.load()
        upright_size = size[::-1] if file.orientation in _SWAPS_AXES else size
        return _resize_and_crop(_upright(image, file.orientation), upright_size, steps, scale_down, file.orientation)


def rgb_image(body: bytes, max_pixels: int = TRUSTED_MAX_PIXELS) -> Image.Image:
    """The whole image in the file `body`, upright, in RGB over white. Raises BadFile as `preprocess` does."""
    with opened(body, max_pixels) as file:
        file.image.load()
        return _over_white(_eight_bits(_upright(file.image, file.orientation)))


def windows(size: tuple[int, int], steps: Preprocessing) -> tuple[Window, Window]:
    """The windows of the columns and of the rows of an upright image of `size`, (width, height) in pixels.

    Sizes and offsets are rounded as torchvision does for Resize and CenterCrop.
    """
    width, height = (_window(length, min(size), steps, decoded=length) for length in size)
    return width, height


def _window(
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


def _resize_and_crop(
    upright: Image.Image, size: tuple[int, int], steps: Preprocessing, scale_down: int, orientation: int
) -> Pixels:
    """Resize the shorter side and crop the centre in one call.

    `size` is that of the whole upright image, whatever `scale_down` it was decoded at. Only what the filter reads
    becomes RGB: a large or very long image is not copied as a whole.
    """
    x, y = (
        # A scaled JPEG's last pixel may stand for fewer than `scale_down`; turning may have put it first.
        _window(
            length,
            min(size),
            steps,
            decoded=decoded,
            scale_down=scale_down,
            origin=decoded - length / scale_down if orientation in reversing else 0,
        )
        for length, decoded, reversing in zip(size, upright.size, _REVERSES_AXIS, strict=True)
    )
    region = _eight_bits(upright.crop((x.first, y.first, x.last, y.last)))
    box = (x.start, y.start, x.end, y.end)
    return np.asarray(_over_white(region.resize((steps.crop, steps.crop), Image.Resampling.BICUBIC, box=box)))


def _scale_down(size: tuple[int, int], decoded: tuple[int, int]) -> int:
    """How many times smaller than `size` an image is decoded; libjpeg rounds lengths up."""
    return next(times for times in (1, 2, 4, 8) if tuple(-(-length // times) for length in size) == decoded)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something is transparent; of 16 bits the upper eight."""
    if image.mode.startswith("I"):  # convert() would clip them
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        transparent = image.info.get("transparency")
        if transparent is None:
            return grey.convert("RGB")
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha)).convert("RGBA")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image.Image) -> Image.Image:
    """The RGB image that an RGBA image shows on white."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
