"""Where batches come from: images that all lie in memory, or files that worker processes decode as they are needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model.dataset import BadDataset, Dataset
from model.files.bad_files import BadFile
from model.files.pixels import rgb
from model.training.crops import Draws, View, resized

Batch = tuple[Tensor, Tensor]  # images (B, 3, side, side) uint8, classes (B,)


class Chunk(NamedTuple):
    """Images that go through the network together, and the seed of what is left to chance of them."""

    indices: Sequence[int]
    seed: int


class TrainingImages(Protocol):
    """Labelled images, which come to the network's device batch by batch."""

    def __len__(self) -> int: ...

    def batches(self, chunks: Iterable[Chunk], view: View) -> Iterator[Batch]:
        """A batch for each of `chunks`, which say all there is to be known about it. Raises BadDataset."""


class InMemory:
    """Images that were decoded once, as squares of `side` pixels on `device`; their own aspect ratio is kept in mind.

    `tell` is called with the number of images that were decoded. Raises BadDataset.
    """

    def __init__(
        self, data: Dataset, targets: Sequence[int], side: int, device: torch.device, tell: Callable[[int], None]
    ) -> None:
        images = torch.empty(len(data), 3, side, side, dtype=torch.uint8)
        self._sizes = torch.empty(len(data), 2)

        def fill(index: int) -> None:
            image = _rgb(data, index)
            images[index] = _channels_first(image.resize((side, side), Image.Resampling.BICUBIC))
            self._sizes[index] = torch.tensor((image.height, image.width))

        with ThreadPoolExecutor() as threads:
            for _ in threads.map(fill, range(len(data))):
                tell(1)
        self._images, self._targets = images.to(device), torch.tensor(targets).to(device)

    def __len__(self) -> int:
        return len(self._targets)

    def batches(self, chunks: Iterable[Chunk], view: View) -> Iterator[Batch]:
        device = self._images.device
        for chunk in chunks:
            indices, draws = torch.as_tensor(chunk.indices), view.draw(len(chunk.indices), chunk.seed)
            boxes = view.boxes(self._sizes[indices], draws)
            images = resized(self._images[indices.to(device)], boxes, view.side)
            mirrored = draws.mirrored.to(device).view(-1, 1, 1, 1)
            yield torch.where(mirrored, images.flip(-1), images), self._targets[indices.to(device)]


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
        for found in loader:
            if isinstance(found, BadDataset):
                raise found
            indices, images = found
            targets = self._targets[indices]
            yield images.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)


class _Cropped(TorchDataset[Batch | BadDataset]):
    """What a worker process does: a chunk to its images, or to an error, which raised would bring its traceback."""

    def __init__(self, data: Dataset, view: View) -> None:
        self._data, self._view = data, view

    def __getitem__(self, chunk: Chunk) -> Batch | BadDataset:
        side = self._view.side
        draws = self._view.draw(len(chunk.indices), chunk.seed)
        batch = torch.empty(len(chunk.indices), 3, side, side, dtype=torch.uint8)
        try:
            for place, index in enumerate(chunk.indices):
                batch[place] = _channels_first(self._crop(_rgb(self._data, index), draws[place : place + 1]))
        except BadDataset as err:
            return err
        return torch.as_tensor(chunk.indices), batch

    def _crop(self, image: Image.Image, draws: Draws) -> Image.Image:
        sizes = torch.tensor([[image.height, image.width]])
        top, left, height, width = (self._view.boxes(sizes, draws)[0] * sizes[0].repeat(2)).tolist()
        seen = image.resize(
            (self._view.side, self._view.side), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
        )
        return ImageOps.mirror(seen) if draws.mirrored.item() else seen


def _rgb(data: Dataset, index: int) -> Image.Image:
    """Image `index`, upright, what is transparent over white, as the service sees it. Raises BadDataset."""
    item = data.items[index]
    try:
        return rgb(data.read(index))
    except BadFile as err:
        raise BadDataset(
            f"{item.name} in {item.source} is no image that can be decoded ({err}); "
            "with one that can in its place the same command goes on"
        ) from err


def _channels_first(image: Image.Image) -> Tensor:
    pixels: NDArray[np.uint8] = np.array(image)
    return torch.from_numpy(pixels).permute(2, 0, 1)
