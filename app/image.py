"""Bytes to pixels: recognise, decode, turn upright, flatten to RGB, resize and crop."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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

_MARKER, _SCAN = 0xFF, 0xDA
_MAX_SCANS = 100  # encoders make about ten
_MARGIN = 2  # times the pixels of the resized image, along each side, has a JPEG at least that is decoded smaller
_ORIENTATION = 0x0112
_TURNS = {  # Exif 2.3, section 4.6.4
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[number] for number in (5, 6, 7, 8)}
_ENDS_FIRST = [{_TURNS[number] for number in numbers} for numbers in ((2, 3, 6, 7), (3, 4, 7, 8))]  # on the left, above
_SEARCHED_BYTES = 1 << 20

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


def decode(body: bytes, steps: Preprocessing, max_pixels: int, *, scaled_jpeg: bool = False) -> Pixels:
    """The pixels that the network sees of the image in `body`: RGB (crop, crop, 3).

    The first frame counts, EXIF orientation is applied, transparency lies over white, 16-bit channels keep their
    upper eight bits. Resizing is Pillow's bicubic, antialiased. With `scaled_jpeg` a JPEG is decoded 2, 4 or 8 times
    smaller if it then still has _MARGIN times the pixels along each side that the resized image has. Raises NotAnImage,
    TooLarge (more than `max_pixels`, found before decoding) or BadImage.
    """
    kind = next((kind for kind, matches in FORMATS.items() if matches(body[:16])), None)
    if kind is None:
        raise NotAnImage("the bytes are not a JPEG, PNG, WebP, GIF or BMP image")
    if kind == "JPEG" and scans(body) > _MAX_SCANS:  # each one goes over all pixels
        raise BadImage(f"the JPEG image has more than {_MAX_SCANS} scans")
    try:
        with Image.open(BytesIO(body), formats=[kind]) as image:
            size = image.size
            if size[0] * size[1] > max_pixels:
                raise TooLarge(f"the image has {size[0]} x {size[1]} pixels, over the limit of {max_pixels:,}")
            if scaled_jpeg and kind == "JPEG":
                image.draft(None, (_MARGIN * steps.resize,) * 2)  # those are the fewest that it leaves
            smaller = _times_smaller(image.size, size)
            image.load()
            orientation = _orientation(image)
            if orientation is None:
                return _resize_and_crop(image, size, steps, smaller)
            size = size[::-1] if orientation in _SIDEWAYS else size
            return _resize_and_crop(image.transpose(orientation), size, steps, smaller, orientation)
    except TooLarge:
        raise
    except MemoryError as err:
        raise BadImage(f"the {kind} image takes more memory to decode than it may") from err
    except Exception as err:  # decoders raise whatever their library does: OSError, SyntaxError, struct.error, …
        raise BadImage(f"the {kind} image is damaged or incomplete") from err


def scans(body: bytes) -> int:
    """How often a marker of a JPEG's scan stands in `body`, at least; faster than bytes.count."""
    values = np.frombuffer(body, np.uint8)
    found = 0
    for start in range(0, len(values), _SEARCHED_BYTES):  # in pieces: an index for each 0xFF takes memory
        markers = start + np.flatnonzero(values[start : start + _SEARCHED_BYTES] == _MARKER)
        found += int(np.count_nonzero(values[np.minimum(markers + 1, len(values) - 1)] == _SCAN))
    return found


def _times_smaller(decoded: tuple[int, int], size: tuple[int, int]) -> int:
    """How many times smaller than `size` an image was decoded; libjpeg rounds lengths up."""
    return next(times for times in (1, 2, 4, 8) if tuple(-(-length // times) for length in size) == decoded)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright, if anything: a damaged EXIF block says nothing of the pixels."""
    with contextlib.suppress(Exception):
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return None


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
