"""Maps over pictures: in the right place, in the right colours, whatever the picture."""

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.decoding.overlay import AGAINST, FOR, GAMMA, draw_overlay
from app.decoding.overlay_bounds import MAX_OVERLAY_BYTES
from app.errors import BadImage, NotAnImage, TooLarge
from model.spec import Preprocessing
from tests.support.pictures import encoded, scene

STEPS = Preprocessing(256, 224)
GREY = (128, 128, 128)
ZEROS = [[0.0, 0.0], [0.0, 0.0]]


def drawn(image: Image.Image, *grids: list[list[float]], opacity: float = 1.0, **options: Any) -> NDArray[np.uint8]:
    png = draw_overlay(encoded(image, **options), STEPS, grids, opacity, 10**8)
    with Image.open(BytesIO(png)) as file:
        assert (file.format, file.mode) == ("PNG", "RGB")
        return np.asarray(file)


def test_without_a_map_what_the_network_sees_stays_and_the_rest_is_darkened() -> None:
    pixels = drawn(Image.new("RGB", (400, 256), GREY), ZEROS)
    assert pixels.shape == (256, 400, 3)
    bright = (pixels == 128).all(axis=2)
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 239, 88, 311)
    assert bright.sum() == 224 * 224
    assert (pixels[~bright] == 51).all()


def test_the_picture_is_grey_below_a_map_so_that_only_the_map_has_colours() -> None:
    pixels = drawn(Image.new("RGB", (400, 256), (230, 120, 40)), [[1.0, 0.0], [0.0, 0.0]]).astype(int)
    assert np.ptp(pixels[184, 256]) == 0  # a patch without a number
    assert np.ptp(pixels[2, 2]) == 0  # what the network does not see
    assert np.ptp(pixels[72, 144]) > 40


def test_warm_colours_are_for_the_class_and_blue_against_it_where_the_patches_are() -> None:
    left_top, right_bottom = [[1.0, 0.0], [0.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]]
    pixels = drawn(Image.new("RGB", (256, 256), GREY), left_top, right_bottom).astype(int)
    warmth = pixels[..., 0] - pixels[..., 2]
    assert warmth[72, 72] > 40  # the middles of patches of 112 pixels, from pixel 16 on
    assert warmth[184, 184] < -40
    assert abs(warmth[72, 184]) < 15
    assert abs(warmth[2, 2]) == 0


def test_the_colours_are_those_of_the_page() -> None:
    source = (Path(__file__).parents[3] / "app/page/static/heat_map.js").read_text()
    of_page = dict(re.findall(r"^const (FOR|AGAINST|GAMMA) = ([^;]+);", source, re.MULTILINE))
    assert {name: json.loads(value) for name, value in of_page.items()} == {
        "FOR": [list(colour) for colour in FOR],
        "AGAINST": [list(colour) for colour in AGAINST],
        "GAMMA": GAMMA,
    }


def test_numbers_of_grids_of_different_sizes_count_by_area() -> None:
    one, sixteen = [[1.0]], [[-1 / 16] * 4] * 4
    pixels = drawn(Image.new("RGB", (256, 256), GREY), one, sixteen)
    assert np.ptp(pixels[16:240, 16:240].astype(int)) <= 1  # they cancel but for rounding


def test_a_map_turns_with_the_picture() -> None:
    """The stored picture lies on its side: its map is of the upright one."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    top = [[1.0, 1.0], [0.0, 0.0]]
    upright = drawn(Image.new("RGB", (300, 400), GREY), top)
    turned = drawn(Image.new("RGB", (400, 300), GREY), top, exif=exif.tobytes())
    assert turned.shape == upright.shape == (400, 300, 3)
    np.testing.assert_array_equal(turned, upright)


def test_opacity_is_that_of_the_strongest_place() -> None:
    none = drawn(scene(300, 280), [[1.0]], opacity=0.0)
    np.testing.assert_array_equal(none, drawn(scene(300, 280), [[0.0]], opacity=1.0))
    full = drawn(scene(300, 280), [[1.0]], opacity=1.0)
    assert (full[140, 150] == FOR[-1]).all()


@pytest.mark.parametrize("size", [(3000, 2000), (2000, 3000), (1, 3000), (3000, 1), (1, 1), (1024, 1025)])
def test_no_side_is_over_1024_pixels_and_small_pictures_stay_as_they_are(size: tuple[int, int]) -> None:
    pixels = drawn(Image.new("RGB", size, GREY), [[1.0]])
    longest = max(size)
    assert max(pixels.shape[:2]) == min(longest, 1024)
    if longest <= 1024:
        assert pixels.shape[1::-1] == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_every_mode_are_drawn_as_they_look(mode: str) -> None:
    image = Image.new("L", (1200, 1200), 255).convert("1" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.full((1200, 1200), 65535, np.uint16))
    pixels = drawn(image, ZEROS)
    assert pixels.shape == (1024, 1024, 3)
    assert (pixels[512, 512] == 255).all()


def test_transparent_parts_lie_over_white_also_those_of_one_colour() -> None:
    image = Image.new("RGB", (1500, 1500), (0, 0, 0))
    pixels = drawn(image, ZEROS, transparency=(0, 0, 0))
    assert (pixels[512, 512] == 255).all()


def test_numbers_that_are_none_are_drawn_as_zero() -> None:
    image = scene(300, 280)
    np.testing.assert_array_equal(drawn(image, [[float("nan")]]), drawn(image, [[0.0]]))


def test_noise_fits_into_the_memory_that_is_kept_for_the_png() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8))
    assert len(draw_overlay(encoded(noise), STEPS, [[[0.0]]], 1.0, 10**8)) < MAX_OVERLAY_BYTES


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"no image", NotAnImage),
        (encoded(scene(30, 30))[:500], BadImage),
        (encoded(Image.new("1", (400, 300))), TooLarge),
    ],
)
def test_errors_are_those_of_decoding(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        draw_overlay(body, STEPS, [[[1.0]]], 1.0, 10**5)
