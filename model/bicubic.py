"""Bicubic resizing as two matrix products, so that a graph with a dynamic side needs no `Resize` operator.

The result is `torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=False)`.
"""

import torch
from torch import Tensor


def resize(x: Tensor, side: int) -> Tensor:
    """Resize square maps (..., n, n) to (..., side, side); at `side == n` the numbers stay the very same."""
    matrix = resize_matrix(x.shape[-1], side, x.dtype, x.device).T
    return ((x.transpose(-1, -2) @ matrix).transpose(-1, -2)) @ matrix


def resize_matrix(n_in: int, n_out: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix R (n_out, n_in) that resizes a row of n_in pixels as `R @ row`.

    Keys' cubic convolution kernel with a = -0.75. With t1 = relu(1 - |d|) and t2 = relu(2 - |d|) it has the
    closed form 3/4 t2^2 (t2 - 1) - 2 t1^3, without branches. Where the kernel hangs over a border, the pixel at
    the border stands in for the missing ones: it gets what the row lacks to the sum 1.
    """
    rows = torch.arange(n_out, device=device).unsqueeze(1)  # (n_out, 1)
    columns = torch.arange(n_in, device=device).unsqueeze(0)  # (1, n_in)
    # Pixel centres lie at halves: the numerator is a whole number, so that equal sizes give the exact identity.
    numerator = (2 * rows + 1) * n_in - n_out - 2 * n_out * columns
    distance = (numerator.to(dtype) / (2 * n_out)).abs()
    t1 = torch.relu(1 - distance)
    t2 = torch.relu(2 - distance)
    kernel = 0.75 * t2 * t2 * (t2 - 1) - 2 * t1 * t1 * t1
    lack = 1 - kernel.sum(dim=1, keepdim=True)
    hangs_left = (2 * rows < n_out).to(dtype)
    return kernel + lack * (hangs_left * (columns == 0) + (1 - hangs_left) * (columns == n_in - 1))
