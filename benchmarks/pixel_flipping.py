"""Deletion and insertion curves: how much of a score hangs on the pixels that a map holds for important.

Petsiuk, Das and Saenko, "RISE" (BMVC 2018). Deletion makes the most important pixels grey first, and a good map lets
the score fall early: the area under its curve is small. Insertion starts from a blurred image and puts the most
important pixels back first: the area is large.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bundle.scores import scores
from bundle.tensors import Images, Outputs
from model.spec import IMAGENET_MEAN, SOFTMAX

STEPS = 10  # from no pixel to all of them
BLUR = 12  # pixels of 224: the standard deviation of the Gaussian
BATCH = 9

Map = NDArray[np.float32]
Maps = dict[str, Map]  # of one image, by what each shows
Curves = dict[str, list[float]]  # of "deletion" and of "insertion", the score at each step


def spread_over_pixels(maps: Sequence[Map], side: int) -> Map:
    """The sum of square grids of any sizes over (side, side), bilinear; a patch's number is spread over its pixels."""
    enlarged = [
        np.asarray(Image.fromarray(grid * grid.size).resize((side, side), Image.Resampling.BILINEAR)) for grid in maps
    ]
    total: Map = np.sum(enlarged, axis=0, dtype=np.float32)
    return total


def curves(pixels: NDArray[np.uint8], maps: Maps, index: int, run: Callable[[Images], Outputs]) -> dict[str, Curves]:
    """The score of class `index` while pixels (side, side, 3) go or come in the order of each map (side, side)."""
    ends = _scores(np.stack([pixels, _grey(pixels), _blurred(pixels)]), index, run)
    return {
        name: {
            "deletion": [ends[0], *_between(pixels, _grey(pixels), importance, index, run), ends[1]],
            "insertion": [ends[2], *_between(_blurred(pixels), pixels, importance, index, run), ends[0]],
        }
        for name, importance in maps.items()
    }


def area(curve: Sequence[float]) -> float:
    """Under `curve`, whose steps are of equal width and together 1 wide."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def _between(
    first: NDArray[np.uint8], last: NDArray[np.uint8], importance: Map, index: int, run: Callable[[Images], Outputs]
) -> list[float]:
    """The scores while the most important pixels of `last` replace those of `first`, without both ends."""
    ranks = np.empty(importance.size, np.int64)
    ranks[np.argsort(-importance, axis=None, kind="stable")] = np.arange(importance.size)
    counts = np.linspace(0, importance.size, STEPS + 1)[1:-1, None, None]
    changed = ranks.reshape(importance.shape) < counts
    return _scores(np.where(changed[..., None], last, first), index, run)


def _scores(images: Images, index: int, run: Callable[[Images], Outputs]) -> list[float]:
    parts = [run(images[start : start + BATCH])[0] for start in range(0, len(images), BATCH)]
    of_classes = scores(np.concatenate(parts), SOFTMAX)[:, index]
    return [round(float(score), 4) for score in of_classes]


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.broadcast_to(np.round(255 * np.array(IMAGENET_MEAN)).astype(np.uint8), pixels.shape)


def _blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    radius = BLUR * pixels.shape[0] / 224
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
