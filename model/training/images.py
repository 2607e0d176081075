"""Where batches come from: images that all lie in memory, or files that worker processes decode as they are needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model.dataset import BadDataset, Dataset
from model.training.crops import View, resized

Batch = tuple[Tensor, Tensor]  # images (B, 3, side, side) uint8, classes (B,)


class Chunk(NamedTuple):
    """Images that are decoded, cropped and given to the network together, with the chance that is theirs."""

    indices: Sequence[int]
    seed: int


class Images(Protocol):
    """Labelled images, on the network's device as far as batches go."""

    def __len__(self) -> int: ...

    def batches(self, chunks: Iterable[Chunk], view: View) -> Iterator[Batch]:
        """A batch for each of `chunks`, which say all there is to be known about it."""


class InMemory:
    """Images that were decoded once, as squares of `side` pixels on `device`; their own aspect ratio is kept in mind.

    `tell` is called with the number of images that were decoded. Raises BadDataset.
    """

    def __init__(
        self, data: Dataset, targets: Sequence[int], side: int, device: torch.device, tell: Callable[[int], None]
    ) -> None:
        images = torch.empty(len(data), 3, side, side, dtype=torch.uint8)
        self._sizes = torch.empty(len(data), 2)
        with ThreadPoolExecutor() as threads:
            for index, (square, size) in enumerate(threads.map(lambda i: _square(data, i, side), range(len(data)))):
                images[index], self._sizes[index] = _channels_first(square), torch.tensor(size)
                tell(1)
        self._images, self._targets = images.to(device), torch.tensor(targets).to(device)

    def __len__(self) -> int:
        return len(self._targets)

    def batches(self, chunks: Iterable[Chunk], view: View) -> Iterator[Batch]:
        for chunk in chunks:
            indices = torch.as_tensor(chunk.indices)
            boxes, mirrored = view.boxes(self._sizes[indices], chunk.seed)
            indices, mirrored = indices.to(self._images.device), mirrored.to(self._images.device)
            images = resized(self._images[indices], boxes, view.side)
            yield torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images), self._targets[indices]


class FromFiles:
    """Images that `workers` processes decode and crop, this one if there are none; batches go to `device`."""

    def __init__(self, data: Dataset, targets: Sequence[int], device: torch.device, workers: int) -> None:
        self._data, self._targets, self._device, self._workers = data, torch.tensor(targets), device, workers

    def __len__(self) -> int:
        return len(self._data)

    def batches(self, chunks: Iterable[Chunk], view: View) -> Iterator[Batch]:
        loader = DataLoader(
            _Cropped(self._data, view),
            batch_size=None,  # a chunk is a batch
            sampler=chunks,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
        )
        for indices, images in loader:
            targets = self._targets[indices]
            yield images.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)


class _Cropped(TorchDataset[Batch]):
    """What a worker process does: a chunk to its images."""

    def __init__(self, data: Dataset, view: View) -> None:
        self._data, self._view = data, view

    def __getitem__(self, chunk: Chunk) -> Batch:
        images = [_rgb(self._data, index) for index in chunk.indices]
        sizes = torch.tensor([(image.height, image.width) for image in images])
        boxes, mirrored = self._view.boxes(sizes, chunk.seed)
        side = self._view.side
        batch = torch.empty(len(images), 3, side, side, dtype=torch.uint8)
        for place, (image, box, mirror) in enumerate(zip(images, boxes.tolist(), mirrored.tolist(), strict=True)):
            top, left, height, width = box
            area = (left * image.width, top * image.height, (left + width) * image.width, (top + height) * image.height)
            seen = image.resize((side, side), Image.Resampling.BICUBIC, box=area)
            batch[place] = _channels_first(np.asarray(ImageOps.mirror(seen) if mirror else seen))
        return torch.as_tensor(chunk.indices), batch


def _square(data: Dataset, index: int, side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    image = _rgb(data, index)
    square = image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square), (image.height, image.width)


def _rgb(data: Dataset, index: int) -> Image.Image:
    """Image `index`, upright, what is transparent over white, as the service sees it. Raises BadDataset."""
    item = data.items[index]
    try:
        with Image.open(BytesIO(data.read(index))) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
            return upright.convert("RGB")
    except BadDataset:
        raise
    except Exception as err:  # decoders raise whatever their library does
        raise BadDataset(f"{item.name} in {item.source} is no image that can be decoded: {err}") from err


def _channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(pixels).permute(2, 0, 1)
