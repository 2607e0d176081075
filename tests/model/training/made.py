"""Images to train on, made by code: stripes, whose class is the way they run and their colour."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01443537", "lying", "upright")  # the first is one of ImageNet's
SIDE = 32


def stripes(category: int, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """An image of `size`, (width, height), of one of CLASSES; no two seeds give the same one."""
    rng = np.random.default_rng([category, seed])
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    waves = np.sin((x, y, x + y)[category] * rng.uniform(0.4, 0.8) + rng.uniform(0, 6))
    colour = np.eye(3)[category] * 80 + 60
    pixels = (1 + waves[..., None]) * colour + rng.uniform(0, 20, (size[1], size[0], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def folder(root: Path, each: int, first: int = 0) -> Path:
    """A folder with `each` PNG images of every class."""
    for category, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for seed in range(first, first + each):
            stripes(category, seed).save(root / name / f"{seed:03}.png")
    return root


def archive(path: Path, each: int) -> Path:
    """The same as a zip file."""
    with zipfile.ZipFile(path, "w") as file:
        for category, name in enumerate(CLASSES):
            for seed in range(each):
                buffer = BytesIO()
                stripes(category, seed).save(buffer, "PNG")
                file.writestr(f"{name}/{seed:03}.png", buffer.getvalue())
    return path
