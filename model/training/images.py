"""Batches of images: random crops of images in memory or of files, and the view of the service for validation."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model.dataset import BadDataset, Dataset
from model.files.bad_files import BadFile
from model.preprocess import Pixels, preprocess, rgb_image
from model.spec import Preprocessing
from model.training.crops import Draws, RandomView, crop_and_resize, random_boxes

Batch = tuple[Tensor, Tensor]  # images (B, 3, side, side) uint8, classes (B,)
_T = TypeVar("_T")


class Chunk(NamedTuple):
    """Images that go through the network together.

    Attributes:
        indices: their numbers in the data set.
        seed: of everything random about their views.
    """

    indices: Sequence[int]
    seed: int


class TrainingImages(Protocol):
    """Labelled images; random crops of them come to the network's device batch by batch."""

    def __len__(self) -> int: ...

    def batches(self, chunks: Iterable[Chunk], view: RandomView) -> Iterator[Batch]:
        """One batch for each of `chunks`; it depends only on the chunk and the view. Raises BadDataset."""


class InMemory:
    """Images that are decoded once, as squares of `side` pixels on `device`; crops keep the original aspect ratio.

    Args:
        data: the images.
        targets: the class of each image.
        side: the side of the squares in pixels.
        device: where the squares lie and are cropped.
        advance: is called with the number of images that were decoded since its last call.

    Raises BadDataset.
    """

    def __init__(
        self, data: Dataset, targets: Sequence[int], side: int, device: torch.device, advance: Callable[[int], None]
    ) -> None:
        images = torch.empty(len(data), 3, side, side, dtype=torch.uint8)
        self._sizes = torch.empty(len(data), 2)

        def fill(index: int) -> None:
            image = _read(data, index, rgb_image)
            images[index] = _channels_first(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)))
            self._sizes[index] = torch.tensor((image.height, image.width))

        with ThreadPoolExecutor() as threads:
            for _ in threads.map(fill, range(len(data))):
                advance(1)
        self._images, self._targets = images.to(device), torch.tensor(targets).to(device)

    def __len__(self) -> int:
        return len(self._targets)

    def batches(self, chunks: Iterable[Chunk], view: RandomView) -> Iterator[Batch]:
        device = self._images.device
        for chunk in chunks:
            indices, draws = torch.as_tensor(chunk.indices), view.draw(len(chunk.indices), chunk.seed)
            boxes = random_boxes(self._sizes[indices], draws)
            images = crop_and_resize(self._images[indices.to(device)], boxes, view.side)
            mirrored = draws.mirrored.to(device).view(-1, 1, 1, 1)
            yield torch.where(mirrored, images.flip(-1), images), self._targets[indices.to(device)]


class FromFiles:
    """Images that worker processes decode and crop when they are needed.

    Args:
        data: the images.
        targets: the class of each image.
        device: where batches go.
        workers: the number of worker processes; 0 decodes in this process.
    """

    def __init__(self, data: Dataset, targets: Sequence[int], device: torch.device, workers: int) -> None:
        self._data, self._targets, self._device, self._workers = data, torch.tensor(targets), device, workers

    def __len__(self) -> int:
        return len(self._data)

    def batches(self, chunks: Iterable[Chunk], view: RandomView | Preprocessing) -> Iterator[Batch]:
        """One batch for each of `chunks`: random crops, or with `Preprocessing` the pixels that the service makes.

        Raises BadDataset.
        """
        loader = DataLoader(
            _Cropped(self._data, view),
            batch_size=None,  # a chunk is a batch
            sampler=chunks,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_the_parent,
        )
        for result in loader:
            if isinstance(result, BadDataset):
                raise result
            indices, images = result
            targets = self._targets[indices]
            yield images.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)


def _leave_interrupts_to_the_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is sent to all processes of the command


class _Cropped(TorchDataset[Batch | BadDataset]):
    """Runs in a worker process: turns a chunk into images.

    An error is returned, since DataLoader would put the worker's traceback into a raised one.
    """

    def __init__(self, data: Dataset, view: RandomView | Preprocessing) -> None:
        self._data, self._view = data, view

    def __getitem__(self, chunk: Chunk) -> Batch | BadDataset:
        side = self._view.crop if isinstance(self._view, Preprocessing) else self._view.side
        batch = torch.empty(len(chunk.indices), 3, side, side, dtype=torch.uint8)
        try:
            for place, pixels in enumerate(self._pixels(chunk)):
                batch[place] = _channels_first(pixels)
        except BadDataset as err:
            return err
        return torch.as_tensor(chunk.indices), batch

    def _pixels(self, chunk: Chunk) -> Iterator[Pixels]:
        if isinstance(self._view, Preprocessing):
            steps = self._view
            for index in chunk.indices:
                yield _read(self._data, index, lambda body: preprocess(body, steps))
        else:
            draws = self._view.draw(len(chunk.indices), chunk.seed)
            for place, index in enumerate(chunk.indices):
                yield _random_crop(_read(self._data, index, rgb_image), self._view, draws[place : place + 1])


def _random_crop(image: Image.Image, view: RandomView, draw: Draws) -> Pixels:
    sizes = torch.tensor([[image.height, image.width]])
    top, left, height, width = (random_boxes(sizes, draw)[0] * sizes[0].repeat(2)).tolist()
    box = (left, top, left + width, top + height)
    crop = image.resize((view.side, view.side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(ImageOps.mirror(crop) if draw.mirrored.item() else crop)


def _read(data: Dataset, index: int, decode: Callable[[bytes], _T]) -> _T:
    """Image `index` as `decode` gives it. Raises BadDataset."""
    item = data.items[index]
    try:
        return decode(data.read(index))
    except BadFile as err:
        raise BadDataset(
            f"{item.name} in {item.source} cannot be decoded ({err}); replace it, and the same command goes on"
        ) from err


def _channels_first(pixels: Pixels) -> Tensor:
    return torch.tensor(pixels).permute(2, 0, 1)
