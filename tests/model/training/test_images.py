from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.dataset import BadDataset, Dataset
from model.spec import Preprocessing
from model.training.crops import RandomView
from model.training.images import Chunk, FromFiles, InMemory
from tests.model.training import made

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset([made.folder(tmp_path / "data", each=4)])


def test_crops_of_files_are_those_of_images_in_memory(data: Dataset) -> None:
    targets = data.indices(data.categories)
    chunks = [Chunk([0, 5, 11], 3), Chunk([7], 4)]
    memory = InMemory(data, targets, made.SIDE, CPU, lambda _: None)
    for view in (RandomView(48, 0.25), RandomView(64, 1)):
        pairs = zip(memory.batches(chunks, view), FromFiles(data, targets, CPU, 0).batches(chunks, view), strict=True)
        for (kept, kept_targets), (read, read_targets) in pairs:
            assert kept.shape == read.shape
            assert kept.dtype == read.dtype == torch.uint8
            assert kept_targets.tolist() == read_targets.tolist()
            assert (kept.int() - read.int()).abs().max() <= 1


def test_worker_processes_give_the_same_crops(data: Dataset) -> None:
    targets = data.indices(data.categories)
    chunks = [Chunk([index, (index + 5) % 12], index) for index in range(12)]
    here, there = (FromFiles(data, targets, CPU, workers).batches(chunks, RandomView(32, 0.25)) for workers in (0, 2))
    for (one, targets_here), (other, targets_there) in zip(here, there, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(targets_here, targets_there)


def test_images_of_other_shapes_keep_their_aspect_in_memory(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    made.stripes(2, 0, (200, 100)).save(tmp_path / "wide" / "0.png")
    data = Dataset([tmp_path])
    chunks = [Chunk([0], 1)]
    memory = InMemory(data, [0], 128, CPU, lambda _: None)
    (kept, _), (read, _) = (
        next(iter(images.batches(chunks, RandomView(64, 0.9)))) for images in (memory, FromFiles(data, [0], CPU, 0))
    )
    assert (kept.int() - read.int()).abs().float().mean() < 6  # once more resized


def test_random_crops_are_upright_and_over_white(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    half = np.zeros((64, 64, 4), np.uint8)
    half[:32, :, 3] = 255  # black above, nothing below
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(half).save(tmp_path / "a" / "0.png", exif=exif)
    data = Dataset([tmp_path])
    for images in (FromFiles(data, [0], CPU, 0), InMemory(data, [0], 64, CPU, lambda _: None)):
        (batch, _), *_ = images.batches([Chunk([0], 0)], RandomView(64, 1))
        assert batch[0, :, :24].min() > 240
        assert batch[0, :, 40:].max() < 15


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = Dataset([tmp_path])
    with pytest.raises(BadDataset, match=r"a/broken\.png in .* cannot be decoded"):
        InMemory(data, [0], 32, CPU, lambda _: None)
    for workers in (0, 1):
        with pytest.raises(BadDataset, match=r"^a/broken\.png in .* cannot be decoded"):
            next(iter(FromFiles(data, [0], CPU, workers).batches([Chunk([0], 0)], Preprocessing(36, 32))))
