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
# The colours of the service's page (app/page/static/heat_map.js), from the weakest on. Of the strongest ones, yellow is
# brighter than pale blue, so those who see no colours can tell them apart.
FOR = ((214, 0, 111), (255, 92, 57), (255, 214, 82))
AGAINST = ((36, 76, 214), (0, 146, 255), (122, 226, 255))
GAMMA = 0.8  # of opacity: weak patches can be seen too


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
    of their patches, so that grids of different sizes add up. Magenta to yellow is for the class, blue against it; the
    largest number has `opacity` (0 to 1), zero is transparent. What the network does not see is darkened. Raises as
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
    weight = np.float32(opacity) * np.abs(values) ** np.float32(GAMMA)
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
    strengths, levels = np.abs(values), np.linspace(0, 1, len(FOR))
    channels = [
        np.where(values > 0, np.interp(strengths, levels, speaks_for), np.interp(strengths, levels, speaks_against))
        for speaks_for, speaks_against in zip(zip(*FOR, strict=True), zip(*AGAINST, strict=True), strict=True)
    ]
    return np.stack(channels, axis=-1).astype(np.float32)
