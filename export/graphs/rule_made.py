"""Weights by parameter name and images by number, made by a rule of NumPy alone.

PyTorch's logits for them are recorded, with each graph template and in tests/golden. Every constant here is part of
those records: changing one makes them worthless.
"""

import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray


def rule_made_parameter(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values for the parameter `name` (IBM's naming)."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.startswith(("pos_embed", "cls_token")):
        return np.float32(0.2) * values
    if name.endswith(".bias"):
        return np.float32(0.1) * values
    if len(shape) == 1:  # LayerNorm
        return np.float32(1) + np.float32(0.1) * values
    return values / np.float32(np.sqrt(np.prod(shape[1:])))


def rule_made_images(side: int) -> NDArray[np.uint8]:
    """Three smooth pictures, (3, side, side, 3)."""
    return _images(side).copy()


@cache
def _images(side: int) -> NDArray[np.uint8]:
    return np.stack([_image(side, seed) for seed in range(3)])


def _image(side: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.Generator(np.random.PCG64(1000 + seed))
    y, x = np.mgrid[0:side, 0:side] / side
    pixels = np.empty((side, side, 3))
    for channel in range(3):
        frequency, phase = rng.uniform(1, 6, 2), rng.uniform(0, 6.28, 2)
        horizontal = np.sin(6.2832 * frequency[0] * x + phase[0])
        vertical = np.cos(6.2832 * frequency[1] * y + phase[1])
        pixels[..., channel] = 127.5 + 60 * horizontal + 60 * vertical
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)
