"""Draws maps of what the network looked at over the picture that it saw, as a PNG."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.decoding.image_decoding import service_errors
from app.decoding.overlay_bounds import LONGEST_SIDE, Grid
from model.crop_windows import crop_region
from model.preprocess import reduced_picture
from model.spec import Preprocessing

_OUTSIDE_BRIGHTNESS = 0.4  # of what the network does not see
# ColorBrewer's diverging scheme RdBu in 11 colours, turned round: from -1, dark blue, to 1, dark red. Its lightness
# falls evenly from the middle to both ends, and people with any of the usual colour deficiencies can read it.
_COLOURS = np.array(
    [
        *((5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247)),
        *((253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31)),
    ],
    np.float32,
)
_LEVELS = np.linspace(-1, 1, len(_COLOURS))


def draw_overlay(
    body: bytes,
    steps: Preprocessing,
    grids: Sequence[Grid],
    opacity: float,
    max_pixels: int,
    longest: int = LONGEST_SIDE,
) -> bytes:
    """A PNG of the picture in `body`, grey, upright and no side over `longest` pixels, with the sum of `grids` over it.

    Each grid lies over the region that the network sees, which is `steps` of the picture. Its numbers count by the area
    of their patches, so that grids of different sizes add up. Red is for the class, blue against it; the largest number
    has `opacity` (0 to 1), zero is transparent. What the network does not see is darkened. Raises as
    app.decoding.image_decoding.decode does.
    """
    with service_errors():
        picture, size = reduced_picture(body, longest, max_pixels)
    seen = crop_region(size, steps)
    across, down = picture.width / size[0], picture.height / size[1]
    x = slice(*_bounds(across * seen.left, across * seen.width, picture.width))
    y = slice(*_bounds(down * seen.top, down * seen.height, picture.height))
    pixels = grey_pixels(picture)
    drawn = _OUTSIDE_BRIGHTNESS * pixels
    drawn[y, x] = with_maps(pixels[y, x], grids, opacity)
    file = BytesIO()
    Image.fromarray(np.rint(drawn).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def grey_pixels(picture: Image.Image) -> NDArray[np.float32]:
    """`picture` in grey, (height, width, 3): colours over it are none of the picture's own, such as warm ones."""
    return np.asarray(picture.convert("L").convert("RGB"), np.float32)


def with_maps(pixels: NDArray[np.float32], grids: Sequence[Grid], opacity: float) -> NDArray[np.float32]:
    """`pixels` (height, width, 3) with the sum of `grids` over all of them, as `draw_overlay` has it."""
    height, width, _ = pixels.shape
    values = _summed(grids, (width, height))[..., None]
    weight = np.float32(opacity) * np.abs(values)
    mixed: NDArray[np.float32] = (1 - weight) * pixels + weight * _colours_of(values[..., 0])
    return mixed


def _bounds(start: float, length: float, whole: int) -> tuple[int, int]:
    """The first pixel of a part of an axis and the one after its last: at least one of the `whole` axis."""
    first = min(max(round(start), 0), whole - 1)
    return first, max(min(round(start + length), whole), first + 1)


def _summed(grids: Sequence[Grid], size: tuple[int, int]) -> NDArray[np.float32]:
    """The sum of `grids` per area, enlarged to `size` (width, height) and scaled to -1 … 1."""
    total = np.zeros(size[::-1], np.float32)
    for grid in grids:
        densities = np.nan_to_num(np.asarray(grid, np.float32)) * len(grid) ** 2
        total += np.asarray(Image.fromarray(densities).resize(size, Image.Resampling.BICUBIC))
    peak = np.abs(total).max()
    return total / peak if peak > 0 else total


def _colours_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB for each of `values` from -1 to 1."""
    channels = [np.interp(values, _LEVELS, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
