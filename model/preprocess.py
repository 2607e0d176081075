"""What the network sees of an image file: upright, 8 bits of RGB, over white, resized and cropped. Imports no torch.

The service, `crossvit evaluate`, training and calibration all make their pixels here.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.crop_windows import Size, axis_window
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
_RESIZED_AS_THEY_ARE = ("RGB", "RGBA", "L", "LA")  # Pillow's modes; resizing others needs another mode first


def preprocess(
    body: bytes, steps: Preprocessing, max_pixels: int = TRUSTED_MAX_PIXELS, *, scaled_jpeg: bool = False
) -> Pixels:
    """The pixels (crop, crop, 3) that the network sees of the image file `body`.

    The first frame counts, EXIF orientation is applied and all other metadata ignored, transparency lies over white,
    16-bit channels keep their upper eight bits. Resizing is Pillow's bicubic, antialiased. With `scaled_jpeg` a JPEG is
    decoded 2, 4 or 8 times smaller if along each side it still has twice the pixels of the resized image. Raises
    BadFile: UnknownFormat, TooManyPixels (before decoding) or Damaged.
    """
    return preprocess_and_measure(body, steps, max_pixels, scaled_jpeg=scaled_jpeg)[0]


def preprocess_and_measure(
    body: bytes, steps: Preprocessing, max_pixels: int = TRUSTED_MAX_PIXELS, *, scaled_jpeg: bool = False
) -> tuple[Pixels, Size]:
    """The pixels of `preprocess`, and the size of the whole upright image, whatever size it was decoded at."""
    with opened(body, max_pixels) as file:
        image, size = file.image, file.image.size
        if scaled_jpeg and image.format == "JPEG":
            image.draft(None, (_SCALED_JPEG_MARGIN * steps.resize,) * 2)  # Pillow keeps at least these pixels
        scale_down = _scale_down(size, image.size)
        image.load()
        upright_size = size[::-1] if file.orientation in _SWAPS_AXES else size
        upright = _upright(image, file.orientation)
        return _resize_and_crop(upright, upright_size, steps, scale_down, file.orientation), upright_size


def rgb_image(body: bytes, max_pixels: int = TRUSTED_MAX_PIXELS) -> Image.Image:
    """The whole image in the file `body`, upright, in RGB over white. Raises BadFile as `preprocess` does."""
    with opened(body, max_pixels) as file:
        file.image.load()
        return _over_white(_eight_bits(_upright(file.image, file.orientation)))


def reduced_picture(body: bytes, longest: int, max_pixels: int = TRUSTED_MAX_PIXELS) -> tuple[Image.Image, Size]:
    """The picture in the file `body` for people to see: upright, RGB over white, no side over `longest` pixels.

    Also the size of the whole upright picture. It is not enlarged. Raises BadFile as `preprocess` does.
    """
    with opened(body, max_pixels) as file:
        image, size = file.image, file.image.size
        if image.format == "JPEG":
            image.draft(None, _within(size, longest))
        image.load()
        as_it_is = image.mode in _RESIZED_AS_THEY_ARE and "transparency" not in image.info
        reduced = (image if as_it_is else _eight_bits(image)).resize(_within(size, longest), Image.Resampling.BICUBIC)
        upright_size = size[::-1] if file.orientation in _SWAPS_AXES else size
        return _over_white(_eight_bits(_upright(reduced, file.orientation))), upright_size


def _within(size: Size, longest: int) -> Size:
    """`size`, reduced so that no side is over `longest`."""
    scale = min(1.0, longest / max(size))
    width, height = (max(1, round(scale * length)) for length in size)
    return width, height


def _resize_and_crop(
    upright: Image.Image, size: Size, steps: Preprocessing, scale_down: int, orientation: int
) -> Pixels:
    """Resize the shorter side and crop the centre in one call.

    `size` is that of the whole upright image, whatever `scale_down` it was decoded at. Only what the filter reads
    becomes RGB: a large or very long image is not copied as a whole.
    """
    x, y = (
        # A scaled JPEG's last pixel may stand for fewer than `scale_down`; turning may have put it first.
        axis_window(
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


def _scale_down(size: Size, decoded: Size) -> int:
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
