"""Bytes to pixels: recognise, decode, turn upright, flatten to RGB, resize and crop."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.errors import BadImage, NotAnImage, TooLarge
from model.spec import Preprocessing

Pixels = NDArray[np.uint8]

FORMATS: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda head: head.startswith(b"\xff\xd8\xff"),
    "PNG": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
    "GIF": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "BMP": lambda head: head.startswith(b"BM"),
}

_SCAN = b"\xff\xda"
_MAX_SCANS = 100  # encoders make about ten

Image.MAX_IMAGE_PIXELS = None  # `decode` has a limit of its own, and refuses instead of warning


@dataclass(frozen=True)
class Window:
    """The part of an axis that is seen: from `start` to `end`, counted from the pixel `first`.

    The filter reaches no pixel before `first`, and none from `last` on.
    """

    first: int
    last: int
    start: float
    end: float


def decode(body: bytes, steps: Preprocessing, max_pixels: int) -> Pixels:
    """The pixels that the network sees of the image in `body`: RGB (crop, crop, 3).

    The first frame counts, EXIF orientation is applied, transparency lies over white, 16-bit channels keep their
    upper eight bits. Resizing is Pillow's bicubic, antialiased. Raises NotAnImage, TooLarge (more than `max_pixels`,
    found before decoding) or BadImage.
    """
    kind = next((kind for kind, matches in FORMATS.items() if matches(body[:16])), None)
    if kind is None:
        raise NotAnImage("the bytes are not a JPEG, PNG, WebP, GIF or BMP image")
    if kind == "JPEG" and body.count(_SCAN) > _MAX_SCANS:  # each one goes over all pixels
        raise BadImage(f"the JPEG image has more than {_MAX_SCANS} scans")
    try:
        with Image.open(BytesIO(body), formats=[kind]) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooLarge(f"the image has {width} x {height} pixels, over the limit of {max_pixels:,}")
            image.load()
            _turn_upright(image)
            return _resize_and_crop(image, steps)
    except TooLarge:
        raise
    except MemoryError as err:
        raise BadImage(f"the {kind} image takes more memory to decode than it may") from err
    except Exception as err:  # decoders raise whatever their library does: OSError, SyntaxError, struct.error, …
        raise BadImage(f"the {kind} image is damaged or incomplete") from err


def _turn_upright(image: Image.Image) -> None:
    # A damaged EXIF block says nothing about the pixels.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def windows(size: tuple[int, int], steps: Preprocessing) -> tuple[Window, Window]:
    """What of the columns and of the rows becomes the network's image, of `size` being (width, height) in pixels.

    Sizes and offsets are rounded as torchvision does for Resize and CenterCrop.
    """
    width, height = (_window(length, min(size), steps) for length in size)
    return width, height


def _window(length: int, short: int, steps: Preprocessing) -> Window:
    resized = steps.resize * length // short
    offset = round((resized - steps.crop) / 2)
    scale = length / resized
    reach = math.ceil(2 * max(scale, 1)) + 1  # of the bicubic filter, in pixels
    start, end = offset * scale, (offset + steps.crop) * scale
    first, last = max(math.floor(start) - reach, 0), min(math.ceil(end) + reach, length)
    return Window(first, last, start - first, end - first)


def _resize_and_crop(image: Image.Image, steps: Preprocessing) -> Pixels:
    """Resize the shorter side and crop the centre in one call.

    Only what the filter reaches is turned to RGB: a large or very long image costs no more copies than it must.
    """
    x, y = windows(image.size, steps)
    region = image.crop((x.first, y.first, x.last, y.last))
    box = (x.start, y.start, x.end, y.end)
    resized_region = _eight_bits(region).resize((steps.crop, steps.crop), Image.Resampling.BICUBIC, box=box)
    return np.asarray(_over_white(resized_region))


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something is transparent."""
    if image.mode.startswith("I"):  # 16 bits of grey; convert() would clip them
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
