"""Real photographs for the proofs: those that ship with the project (CC0 or public domain, see NOTICE), or one's own.

Noise and smooth shapes do not show whether rounding changes answers; photographs do. A precision is measured on other
photographs than it was calibrated on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bundle.atomic_files import file_sha256
from bundle.manifest import Photographs
from model.files.bad_files import BadFile
from model.files.folders import images_in, others_in, read_image_file
from model.files.formats import SUFFIXES
from model.preprocess import Pixels, preprocess, rgb_image
from model.spec import Preprocessing

_DATA = Path(__file__).parents[1] / "data"
SHIPPED = _DATA / "photos"  # the golden images are of these, and 8 bits are calibrated on them
SHIPPED_MEASURING = _DATA / "measuring"
LEAST_PHOTOGRAPHS = 2  # to measure on
_MOST_PHOTOGRAPHS = 500  # of a folder: more than views show
_LEAST_AREA = 0.3  # of the photograph, in a crop
_ANOTHER_SEED = 1_000_000


class NoPhotos(Exception):
    """The folder has no readable photographs."""


@dataclass(frozen=True)
class PhotoSet:
    """Photographs: `source` is "shipped", or the folder that they are in."""

    source: str
    files: list[Path]

    def for_manifest(self, views: int) -> Photographs:
        """What the manifest says of `views` views of them. Raises OSError."""
        digest = hashlib.sha256()
        for path in spread_out(self.files, views):
            digest.update(file_sha256(path).encode())
        return Photographs(source=self.source, sha256=digest.hexdigest())


class PhotoSets(NamedTuple):
    """Photographs to calibrate 8 bits on, and others to measure precisions on."""

    calibrating: PhotoSet
    measuring: PhotoSet


def measuring_set(folder: Path | None) -> PhotoSet:
    """Photographs to measure precisions on: those in `folder`, or those shipped. Raises NoPhotos."""
    return _enough(_photo_set("shipped" if folder is None else str(folder), photographs(folder or SHIPPED_MEASURING)))


def photo_sets(calibration: Path | None, measuring: Path | None) -> PhotoSets:
    """The photographs in two folders, by default shipped ones.

    A folder that is to serve for both, or `calibration` alone, is divided: every second photograph is for measuring. If
    there are fewer than four in `calibration` alone, all are for calibration, and the shipped ones for measuring. None
    that is calibrated on is measured on, under whatever name. Raises NoPhotos, and OSError.
    """
    if calibration is None:
        calibrating = _photo_set("shipped", photographs(SHIPPED))
        return PhotoSets(calibrating, _apart(measuring_set(measuring), calibrating))
    files = photographs(calibration)
    if measuring is not None and measuring.resolve() != calibration.resolve():
        calibrating = _photo_set(str(calibration), files)
        return PhotoSets(calibrating, _apart(measuring_set(measuring), calibrating))
    if len(files) >= 2 * LEAST_PHOTOGRAPHS:
        calibrating = _photo_set(str(calibration), files[::2])
        return PhotoSets(calibrating, _apart(_photo_set(str(calibration), files[1::2]), calibrating))
    if measuring is not None:
        raise NoPhotos(f"{calibration} is to be divided, and has {len(files)} photographs; at least four are needed")
    calibrating = _photo_set(str(calibration), files)
    return PhotoSets(calibrating, _apart(measuring_set(None), calibrating))


def _photo_set(source: str, files: Sequence[Path]) -> PhotoSet:
    return PhotoSet(source, spread_out(files, _MOST_PHOTOGRAPHS))


def _apart(measuring: PhotoSet, calibrating: PhotoSet) -> PhotoSet:
    """Those of `measuring` whose content is not that of a file of `calibrating`."""
    known = {file_sha256(path) for path in calibrating.files}
    apart = [path for path in measuring.files if file_sha256(path) not in known]
    return _enough(PhotoSet(measuring.source, apart), " that 8 bits are not calibrated on")


def _enough(photos: PhotoSet, which: str = "") -> PhotoSet:
    """Raises NoPhotos for too few to say anything of others."""
    if len(photos.files) < LEAST_PHOTOGRAPHS:
        raise NoPhotos(
            f"precisions are measured on at least {LEAST_PHOTOGRAPHS} photographs{which}; "
            f"{photos.source} has {len(photos.files)}"
        )
    return photos


def views(steps: Preprocessing, count: int, files: Sequence[Path]) -> NDArray[np.uint8]:
    """`count` views of the photographs `files`, (count, crop, crop, 3).

    First each photograph with the service's own pixels, then crops at other places and scales, half of them mirrored;
    the same ones at every call. Of more files than `count`, some from everywhere in the list. Raises NoPhotos.
    """
    files = spread_out(files, count)
    result = np.empty((count, steps.crop, steps.crop, 3), np.uint8)
    for index, path in enumerate(files):
        with _named(path):
            body = read_image_file(path)
            result[index] = preprocess(body, steps)
            places = range(index + len(files), count, len(files))
            if places:
                result[index + len(files) :: len(files)] = list(_crops(rgb_image(body), steps, len(places), index))
    return result


def crops(steps: Preprocessing, count: int, files: Sequence[Path]) -> NDArray[np.uint8]:
    """`count` crops of the photographs `files` to calibrate on, (count, crop, crop, 3). Raises NoPhotos."""
    files = spread_out(files, count)
    result = np.empty((count, steps.crop, steps.crop, 3), np.uint8)
    for index, path in enumerate(files):
        with _named(path):
            image = rgb_image(read_image_file(path))
        places = range(index, count, len(files))
        result[index :: len(files)] = list(_crops(image, steps, len(places), _ANOTHER_SEED + index))
    return result


def spread_out(files: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of `files`, evenly from the whole list: neighbours in a folder often show the same class."""
    if len(files) <= count:
        return list(files)
    return [files[number * len(files) // count] for number in range(count)]


def photographs(root: Path) -> list[Path]:
    """The photographs in `root` and below, in order. Raises NoPhotos if there is none."""
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
