"""Images for a measurement: files, or pictures made by code."""

from collections.abc import Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from app.commands.classify import image_files
from app.errors import BadParameter

MAX_FILES = 256  # all are held in memory
_SYNTHETIC_COUNT = 4
_WIDTH = 500
_HEIGHT = 375


def read_sample_images(paths: Sequence[Path]) -> dict[str, bytes]:
    """The first 256 files, by name; folders are searched as by `crossvit classify`. BadParameter without any file."""
    files = {}
    for path in islice(image_files(paths), MAX_FILES):
        try:
            files[str(path)] = path.read_bytes()
        except OSError as err:
            raise BadParameter(f"{path}: {err.strerror}") from err
    if not files:
        raise BadParameter("no image files there")
    return files


def synthetic_images() -> dict[str, bytes]:
    """JPEGs of the size of ImageNet's usual photograph, 500 x 375 and about 70 KB: waves and noise."""
    return {f"made-{seed}": _jpeg(seed) for seed in range(_SYNTHETIC_COUNT)}


def _jpeg(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    waves = [np.sin(x / rng.uniform(5, 40)) + np.cos(y / rng.uniform(5, 40)) for _ in range(3)]
    pixels = 127.5 + 55 * np.stack(waves, axis=-1) + rng.normal(0, 10, (_HEIGHT, _WIDTH, 3))
    buffer = BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
