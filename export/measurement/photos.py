"""Real photographs for the proofs: eight that ship with the project (CC0 or public domain, see NOTICE), or one's own.

Noise and smooth shapes do not show whether rounding changes answers; photographs do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.files.bad_files import BadFile
from model.files.folders import images_in, others_in, read_image_file
from model.files.formats import SUFFIXES
from model.preprocess import Pixels, preprocess, rgb_image
from model.spec import Preprocessing

SHIPPED = Path(__file__).parents[1] / "data" / "photos"
_LEAST_AREA = 0.3  # of the photograph, in a crop
_ANOTHER_SEED = 1_000_000


class NoPhotos(Exception):
    """The folder has no readable photographs."""


def views(steps: Preprocessing, count: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """`count` views of the photographs in `folder`, by default the shipped ones, (count, crop, crop, 3).

    First each photograph with the service's own pixels, then crops at other places and scales, half of them mirrored;
    the same ones at every call. Raises NoPhotos.
    """
    files = photographs(folder)[:count]
    result = np.empty((count, steps.crop, steps.crop, 3), np.uint8)
    for index, path in enumerate(files):
        with _named(path):
            body = read_image_file(path)
            result[index] = preprocess(body, steps)
            places = range(index + len(files), count, len(files))
            if places:
                result[index + len(files) :: len(files)] = list(_crops(rgb_image(body), steps, len(places), index))
    return result


def crops(steps: Preprocessing, count: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """`count` views to calibrate on, (count, crop, crop, 3): none of them is among those of `views`. Raises NoPhotos.

    They are crops at places and scales of their own, of the last photographs in `folder`, `views` taking the first.
    """
    files = photographs(folder)[-count:]
    result = np.empty((count, steps.crop, steps.crop, 3), np.uint8)
    for index, path in enumerate(files):
        with _named(path):
            image = rgb_image(read_image_file(path))
        places = range(index, count, len(files))
        result[index :: len(files)] = list(_crops(image, steps, len(places), _ANOTHER_SEED + index))
    return result


def photographs(folder: Path | None = None) -> list[Path]:
    """The photographs in `folder` and below, by default the shipped ones, in order; NoPhotos if there is none."""
    root = folder or SHIPPED
    if root.exists() and not root.is_dir():
        raise NoPhotos(f"{root} is a file, and photographs are read from a folder: unpack it, or give the one it is in")
    try:
        found = [root / name for name in images_in(root)]
    except OSError as err:
        raise NoPhotos(f"the folder of photographs cannot be read: {err}") from err
    if not found:
        raise NoPhotos(f"no photographs ({', '.join(SUFFIXES)}) in {root}{others_in([root])}")
    return found


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raises NoPhotos with the name of the photograph if it cannot be read in the block."""
    try:
        yield
    except (OSError, BadFile) as err:
        raise NoPhotos(f"{path} cannot be read: {err}") from err


def _crops(image: Image.Image, steps: Preprocessing, count: int, seed: int) -> Iterator[Pixels]:
    """`count` crops at random places and scales; every second one is mirrored, the first too."""
    rng = np.random.default_rng(seed)
    size = np.array(image.size, float)
    for number in range(count):
        side = size.min() * np.sqrt(rng.uniform(_LEAST_AREA, 1))
        corner = rng.uniform(0, size - side)
        box = (*corner, *(corner + side))
        pixels = np.asarray(image.resize((steps.crop, steps.crop), Image.Resampling.BICUBIC, box=box))
        yield pixels if number % 2 else pixels[:, ::-1]
