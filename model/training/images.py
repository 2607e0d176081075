"""Batches of training images: decoded once and kept where the network is, cropped there at every step."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.dataset import Dataset
from model.training.crops import central_boxes, random_boxes, resized


def decoded(body: bytes, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """An image as RGB, (side, side, 3) uint8, squeezed into the square, and its own height and width."""
    with Image.open(BytesIO(body)) as image:
        size = image.size
        rgb = image.convert("RGB")
        square = rgb if size == (side, side) else rgb.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square), size[::-1]


class Resident:
    """All images of `data` in memory as squares of `side` pixels, with their own aspect ratio in mind."""

    def __init__(
        self, data: Dataset, targets: list[int], side: int, device: torch.device, tell: Callable[[int], None]
    ) -> None:
        self._images = torch.empty(len(data), 3, side, side, dtype=torch.uint8)
        self._sizes = torch.empty(len(data), 2)
        self._targets = torch.tensor(targets)
        with ThreadPoolExecutor() as threads:
            squares = threads.map(lambda index: decoded(data.read(index), side), range(len(data)))
            for index, (pixels, size) in enumerate(squares):
                self._images[index] = torch.tensor(pixels).permute(2, 0, 1)
                self._sizes[index] = torch.tensor(size)
                tell(1)
        self._images, self._targets = self._images.to(device), self._targets.to(device)

    def __len__(self) -> int:
        return len(self._targets)

    def random_crops(
        self, indices: Tensor, side: int, least_area: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, side, side), 0 to 255, half of them mirrored, and their classes (B,)."""
        boxes = random_boxes(self._sizes[indices], least_area, generator)
        mirrored = torch.rand(len(indices), generator=generator) < 0.5
        images = resized(self._images[indices.to(self._images.device)], boxes, side)
        images = torch.where(mirrored.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)
        return images, self._targets[indices.to(images.device)]

    def central_crops(self, side: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images as evaluation sees them, batch by batch: (B, 3, side, side) and classes (B,)."""
        for indices in torch.arange(len(self)).split(batch):
            here = indices.to(self._images.device)
            yield resized(self._images[here], central_boxes(self._sizes[indices], side), side), self._targets[here]
