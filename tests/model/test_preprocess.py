"""The service, training's validation and calibration make the same pixels of every image file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.decoding.image_decoding import decode
from export.measurement.photos import photographs, views
from model.dataset import Dataset
from model.preprocess import preprocess, rgb_image
from model.spec import PREPROCESSING, Preprocessing, preprocessing_at
from model.training.images import Chunk, FromFiles
from tests.model.files import odd
from tests.support.pictures import encoded, scene

SIZE = (83, 57)
SIZES = [(1, 1), (1, 300), (300, 1), (2, 3), (31, 33), (223, 225), (224, 224), (255, 257), (1000, 37), (37, 1000)]
STEPS = [*PREPROCESSING.values(), preprocessing_at(96), Preprocessing(70, 61)]


def assert_all_see_the_same(root: Path, body: bytes, steps: Preprocessing) -> None:
    (root / "class").mkdir(parents=True)
    # Names do not matter: the content tells the format.
    (root / "class" / "0.png").write_bytes(body)
    served = decode(body, steps, 10**7)
    batches = FromFiles(Dataset([root]), [0], torch.device("cpu"), 0).batches([Chunk([0], 0)], steps)
    ((trained, _),) = list(batches)
    measured = views(steps, 1, photographs(root))
    assert served.shape == (steps.crop, steps.crop, 3)
    np.testing.assert_array_equal(trained[0].permute(1, 2, 0).numpy(), served)
    np.testing.assert_array_equal(measured[0], served)


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("size", [(83, 57), (500, 375), (375, 900), (1000, 700)])
def test_pixels_are_those_of_the_whole_image_resized_and_then_cropped(
    size: tuple[int, int], steps: Preprocessing
) -> None:
    image = scene(*size)
    short = min(size)
    width, height = (steps.resize * length // short for length in size)
    left, top = round((width - steps.crop) / 2), round((height - steps.crop) / 2)
    whole = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    expected = whole[top : top + steps.crop, left : left + steps.crop]
    found = preprocess(encoded(image), steps).astype(int)
    assert np.abs(found - expected).max() <= 1  # rounding between the two passes


def with_alpha(mode: str) -> Image.Image:
    image = scene(*SIZE).convert(mode)
    image.putalpha(scene(*SIZE, seed=1).convert("L"))
    return image


def sixteen_bits() -> Image.Image:
    rows = np.random.default_rng(0).integers(0, 1 << 16, (SIZE[1], SIZE[0]), dtype=np.uint16)
    rows[:9] = 4660
    return Image.fromarray(rows)


def palette() -> Image.Image:
    return scene(*SIZE).quantize(64)


MODES: dict[str, Callable[[], bytes]] = {
    "1": lambda: encoded(scene(*SIZE).convert("1")),
    "L": lambda: encoded(scene(*SIZE).convert("L")),
    "L, one value transparent": lambda: encoded(scene(*SIZE).convert("L"), transparency=128),
    "LA": lambda: encoded(with_alpha("L")),
    "P": lambda: encoded(palette()),
    "P, one colour transparent": lambda: encoded(palette(), transparency=7),
    "P, an alpha for each colour": lambda: encoded(palette(), transparency=bytes(range(0, 256, 4))),
    "P, GIF": lambda: encoded(palette(), "GIF"),
    "P, GIF, transparent": lambda: encoded(palette(), "GIF", transparency=7),
    "RGB": lambda: encoded(scene(*SIZE)),
    "RGB, one colour transparent": lambda: encoded(Image.new("RGB", SIZE, (1, 2, 3)), transparency=(1, 2, 3)),
    "RGB, JPEG": lambda: encoded(scene(*SIZE), "JPEG"),
    "RGB, WebP": lambda: encoded(scene(*SIZE), "WEBP"),
    "RGBA": lambda: encoded(with_alpha("RGB")),
    "RGBA, WebP": lambda: encoded(with_alpha("RGB"), "WEBP", lossless=True),
    "RGBA, AVIF": lambda: encoded(with_alpha("RGB"), "AVIF"),
    "CMYK": lambda: encoded(scene(*SIZE).convert("CMYK"), "JPEG"),
    "L, JPEG": lambda: encoded(scene(*SIZE).convert("L"), "JPEG"),
    "I;16": lambda: encoded(sixteen_bits()),
    "I;16, one value transparent": lambda: encoded(sixteen_bits(), transparency=4660),
}


@pytest.mark.parametrize("make", MODES.values(), ids=MODES)
def test_service_validation_and_calibration_see_the_same_pixels_in_every_mode(
    tmp_path: Path, make: Callable[[], bytes]
) -> None:
    for number, steps in enumerate(STEPS):
        assert_all_see_the_same(tmp_path / str(number), make(), steps)


@pytest.mark.parametrize("orientation", [*range(10), 65535])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_service_validation_and_calibration_see_the_same_pixels_in_every_orientation(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    body = encoded(scene(83, 58), kind, exif=odd.oriented(orientation))
    for number, steps in enumerate(STEPS):
        assert_all_see_the_same(tmp_path / str(number), body, steps)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_service_validation_and_calibration_see_the_same_pixels_at_every_size(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    for number, steps in enumerate(STEPS):
        for mode in ("RGB", "RGBA", "L"):
            body = encoded(scene(*size).convert(mode), exif=odd.oriented(6))
            assert_all_see_the_same(tmp_path / f"{number}{mode}", body, steps)


@pytest.mark.parametrize("make", MODES.values(), ids=MODES)
def test_an_image_of_the_resized_size_keeps_its_pixels(make: Callable[[], bytes]) -> None:
    whole = np.asarray(rgb_image(make())).astype(int)
    left = round((SIZE[0] - SIZE[1]) / 2)
    pixels = preprocess(make(), Preprocessing(SIZE[1], SIZE[1])).astype(int)
    assert np.abs(pixels - whole[:, left : left + SIZE[1]]).max() <= 1  # Pillow resizes premultiplied colours
