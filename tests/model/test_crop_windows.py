"""What the network sees of an upright picture, in the picture's pixels."""

import numpy as np
import pytest

from model.crop_windows import crop_region
from model.preprocess import preprocess, preprocess_and_measure
from model.spec import PREPROCESSING, Preprocessing
from tests.support.pictures import encoded, scene


@pytest.mark.parametrize(
    ("size", "steps", "expected"),
    [
        ((256, 256), Preprocessing(256, 224), (16, 16, 224, 224)),
        ((500, 375), Preprocessing(256, 224), (85.04, 23.4, 328.4, 328.1)),
        ((375, 500), Preprocessing(256, 224), (23.4, 85.04, 328.1, 328.4)),
        ((640, 480), Preprocessing(480, 480), (80, 0, 480, 480)),
        ((1, 1), Preprocessing(256, 224), (0.06, 0.06, 0.88, 0.88)),
    ],
)
def test_the_region_is_the_crop_in_pixels_of_the_picture(
    size: tuple[int, int], steps: Preprocessing, expected: tuple[float, ...]
) -> None:
    region = crop_region(size, steps)
    np.testing.assert_allclose((region.left, region.top, region.width, region.height), expected, atol=0.05)


@pytest.mark.parametrize("steps", PREPROCESSING.values(), ids=str)
def test_a_mark_in_the_picture_is_where_the_region_says(steps: Preprocessing) -> None:
    picture = scene(500, 375).point(lambda value: value // 4)
    x, y = 330, 120
    picture.paste((255, 255, 255), (x - 6, y - 6, x + 6, y + 6))
    pixels, size = preprocess_and_measure(encoded(picture), steps)
    assert size == (500, 375)
    rows, columns = np.nonzero(pixels.min(axis=2) > 200)
    region = crop_region(size, steps)
    found_x = region.left + (columns.mean() + 0.5) / steps.crop * region.width
    found_y = region.top + (rows.mean() + 0.5) / steps.crop * region.height
    assert (found_x, found_y) == pytest.approx((x, y), abs=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_whole_upright_picture(orientation: int) -> None:
    exif = scene(8, 8).getexif()
    exif[0x0112] = orientation
    body = encoded(scene(2400, 1600), "JPEG", exif=exif.tobytes())
    steps = Preprocessing(256, 224)
    for scaled in (False, True):
        pixels, size = preprocess_and_measure(body, steps, scaled_jpeg=scaled)
        assert size == ((1600, 2400) if orientation > 4 else (2400, 1600))
        np.testing.assert_array_equal(pixels, preprocess(body, steps, scaled_jpeg=scaled))
