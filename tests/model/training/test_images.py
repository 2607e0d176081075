from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.decoding.image import decode
from model.dataset import BadDataset, Dataset
from model.spec import Preprocessing
from model.training.crops import View
from model.training.images import Chunk, FromFiles, InMemory, _rgb
from tests.model.training import made

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset([made.folder(tmp_path / "data", each=4)])


def test_crops_of_files_are_those_of_images_in_memory(data: Dataset) -> None:
    targets = data.indices(data.categories)
    chunks = [Chunk([0, 5, 11], 3), Chunk([7], 4)]
    memory = InMemory(data, targets, made.SIDE, CPU, lambda _: None)
    for view in (View(48, 0.25), View(64)):
        pairs = zip(memory.batches(chunks, view), FromFiles(data, targets, CPU, 0).batches(chunks, view), strict=True)
        for (kept, kept_targets), (read, read_targets) in pairs:
            assert kept.shape == read.shape
            assert kept.dtype == read.dtype == torch.uint8
            assert kept_targets.tolist() == read_targets.tolist()
            assert (kept.int() - read.int()).abs().max() <= 1


def test_worker_processes_change_nothing(data: Dataset) -> None:
    targets = data.indices(data.categories)
    chunks = [Chunk([index, (index + 5) % 12], index) for index in range(12)]
    here, there = (FromFiles(data, targets, CPU, workers).batches(chunks, View(32, 0.25)) for workers in (0, 2))
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
        next(iter(images.batches(chunks, View(64)))) for images in (memory, FromFiles(data, [0], CPU, 0))
    )
    assert (kept.int() - read.int()).abs().float().mean() < 6  # once more resized


def test_images_are_upright_and_lie_over_white_as_in_the_service(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    half = np.zeros((64, 64, 4), np.uint8)
    half[:32, :, 3] = 255  # black above, nothing below
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(half).save(tmp_path / "a" / "0.png", exif=exif)
    images, _ = next(iter(FromFiles(Dataset([tmp_path]), [0], CPU, 0).batches([Chunk([0], 0)], View(64))))
    assert images[0, :, :24].min() > 240
    assert images[0, :, 40:].max() < 15


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_is_seen_as_the_service_sees_it(tmp_path: Path, mode: str) -> None:
    colours = made.stripes(0, 0, size=(64, 64))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 256 + 255)
    else:
        image = colours.quantize(64) if mode == "P" else colours.convert(mode)
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / ("0.jpg" if mode == "CMYK" else "0.png")
    image.save(path)
    seen = _rgb(Dataset([tmp_path]), 0)
    served = decode(path.read_bytes(), Preprocessing(64, 64), 10**6)
    np.testing.assert_array_equal(np.asarray(seen), served)
    assert 20 < served.mean() < 235


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = Dataset([tmp_path])
    with pytest.raises(BadDataset, match=r"a/broken\.png in .* is no image that can be decoded"):
        InMemory(data, [0], 32, CPU, lambda _: None)
    for workers in (0, 1):
        with pytest.raises(BadDataset, match=r"^a/broken\.png in .* is no image that can be decoded"):
            next(iter(FromFiles(data, [0], CPU, workers).batches([Chunk([0], 0)], View(32))))
