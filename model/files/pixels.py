"""Opens image files for their pixels, without the metadata; `model.preprocess` makes the network's pixels of them."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO

from PIL import AvifImagePlugin, Image

from model.files import avif, gif, icon, jpeg, png, webp
from model.files.bad_files import BadFile, Damaged, TooManyPixels
from model.files.essential import Essential
from model.files.formats import recognised

TRUSTED_MAX_PIXELS = 178_956_970  # Pillow's own limit, for images of the user's own

_ORIENTATION = 0x0112
_NOISE_AFTER_DATA = bytes(range(1, 255, 7)) * 8  # a JPEG's decoder cannot read it as the end of the data
_ESSENTIAL: dict[str, Callable[[bytes], Essential]] = {
    "JPEG": jpeg.jpeg_essentials,
    "PNG": png.png_essentials,
    "WEBP": webp.webp_essentials,
    "GIF": gif.gif_essentials,
    "AVIF": avif.avif_essentials,
    "ICO": icon.icon_essentials,
    "BMP": partial(Essential, "BMP"),
}
_NAMES = {"WEBP": "WebP"}
_COMPARED_ROWS = 256  # at a time

Image.MAX_IMAGE_PIXELS = None  # `opened` has its own limit, and raises instead of warning
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the decoding process cannot start threads


@dataclass(frozen=True)
class Opened:
    """An image that may not be decoded yet, and Exif's orientation: 1 to 8, or an invalid number, which is 1."""

    image: Image.Image
    orientation: int


@contextlib.contextmanager
def opened(body: bytes, max_pixels: int) -> Iterator[Opened]:
    """The first image in `body`, without its metadata.

    Every error, also within the block, is raised as a BadFile: UnknownFormat, TooManyPixels or Damaged.
    """
    kind = recognised(body)
    try:
        essential = _ESSENTIAL[kind](body)
        with Image.open(BytesIO(essential.body), formats=[essential.kind]) as image:
            if image.width * image.height > max_pixels:
                raise TooManyPixels(
                    f"the image has {image.width} x {image.height} pixels, over the limit of {max_pixels:,}"
                )
            if not essential.ended and _depends_on_what_follows(image, essential.body):
                raise _incomplete(kind)
            # Pillow gives an AVIF's properties irot and imir as Exif's orientation.
            orientation = image.getexif().get(_ORIENTATION, 1) if kind == "AVIF" else essential.orientation
            yield Opened(image, orientation)
    except BadFile:
        raise
    except MemoryError as err:
        raise Damaged(f"the {_NAMES.get(kind, kind)} image takes more memory to decode than it may") from err
    except Exception as err:  # decoders raise errors of many kinds: OSError, SyntaxError, struct.error, …
        raise _explained(kind, err) from err


def _depends_on_what_follows(image: Image.Image, essential: bytes) -> bool:
    """Whether a JPEG has other pixels if other bytes follow its data: then some data is missing."""
    image.load()
    with Image.open(BytesIO(essential[: -len(jpeg.END)] + _NOISE_AFTER_DATA + jpeg.END), formats=["JPEG"]) as other:
        strips = [
            (0, top, image.width, min(top + _COMPARED_ROWS, image.height))
            for top in range(0, image.height, _COMPARED_ROWS)
        ]
        return any(image.crop(strip).tobytes() != other.crop(strip).tobytes() for strip in strips)


def _incomplete(kind: str) -> Damaged:
    return Damaged(f"the {_NAMES.get(kind, kind)} image is incomplete: the file ends before its last pixels")


def _explained(kind: str, err: Exception) -> Damaged:
    text = str(err).lower()
    unsupported = re.match(r"unsupported bmp (.*)", text)
    if unsupported:
        return Damaged(f"a BMP of this kind ({unsupported[1]}) is not supported; convert it to PNG")
    if "truncated" in text:
        return _incomplete(kind)
    return Damaged(f"the {_NAMES.get(kind, kind)} image is damaged")
