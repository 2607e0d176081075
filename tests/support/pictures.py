"""Pictures made by code, free to ship, and their files."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Shapes, gradients and texture, so that every pixel counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / rng.uniform(5, 40)) + np.cos(y / rng.uniform(5, 40)) for _ in range(3)], axis=-1)
    pixels = 127.5 + 55 * waves + rng.normal(0, 10, waves.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(scene(500, 375), "JPEG", quality=90)  # as a photograph that a client sends
