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
Curves = dict[str, NDArray[np.float64]]  # of "deletion" and of "insertion", the score at each step


def spread_over_pixels(maps: Sequence[Map], side: int) -> Map:
    """The sum of square grids of any sizes over (side, side), bilinear; a patch's number is spread over its pixels."""
    enlarged = [
        np.asarray(Image.fromarray(grid * grid.size).resize((side, side), Image.Resampling.BILINEAR)) for grid in maps
    ]
    return np.sum(enlarged, axis=0, dtype=np.float32)


def curves(pixels: NDArray[np.uint8], importance: Map, index: int, run: Callable[[Images], Outputs]) -> Curves:
    """The score of class `index` while pixels (side, side, 3) go or come by their `importance` (side, side)."""
    ranks = np.empty(importance.size, np.int64)
    ranks[np.argsort(-importance, axis=None, kind="stable")] = np.arange(importance.size)
    most = ranks.reshape(importance.shape)[None] < np.linspace(0, importance.size, STEPS + 1)[:, None, None]
    found = {}
    for name, first, last in (("deletion", pixels, _grey(pixels)), ("insertion", _blurred(pixels), pixels)):
        images = np.where(most[..., None], last, first)
        found[name] = _scores(images, index, run)
    return found


def area(curve: NDArray[np.float64]) -> float:
    """Under `curve`, whose steps are of equal width and together 1 wide."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def _scores(images: Images, index: int, run: Callable[[Images], Outputs]) -> NDArray[np.float64]:
    parts = [run(images[start : start + BATCH])[0] for start in range(0, len(images), BATCH)]
    of_classes: NDArray[np.float64] = scores(np.concatenate(parts).astype(np.float64), SOFTMAX)
    return of_classes[:, index]


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.broadcast_to(np.round(255 * np.array(IMAGENET_MEAN)).astype(np.uint8), pixels.shape)


def _blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    radius = BLUR * pixels.shape[0] / 224
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
