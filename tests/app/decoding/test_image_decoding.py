import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.decoding.image_decoding import decode
from app.errors import BadImage, NotAnImage, TooLarge
from model.spec import PREPROCESSING, Preprocessing
from tests.support.pictures import encoded, scene

WHOLE = Preprocessing(64, 64)
LIMIT = 50_000_000


def whole(body: bytes) -> NDArray[np.int16]:
    """The pixels of a 64 x 64 image as they are."""
    return decode(body, WHOLE, LIMIT).astype(np.int16)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF", "JPEG"])
def test_the_formats(kind: str) -> None:
    image = scene(64, 64)
    choices: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    options = choices.get(kind, {})
    expected = np.asarray(image.quantize().convert("RGB") if kind == "GIF" else image).astype(np.int16)
    tolerance = 12 if kind in ("GIF", "JPEG") else 0
    assert np.abs(whole(encoded(image, kind, **options)) - expected).mean() <= tolerance / 4
    assert decode(encoded(image, kind), WHOLE, LIMIT).dtype == np.uint8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    first, second = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    body = encoded(first, kind, save_all=True, append_images=[second], duration=50, lossless=True)
    assert np.abs(whole(body) - [255, 0, 0]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = scene(64, 64)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(whole(encoded(stored, exif=exif)), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_cost_the_image() -> None:
    body = encoded(scene(64, 64), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12\x01" * 8)
    assert whole(body).shape == (64, 64, 3)


def solid(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (64, 64), colour)  # type: ignore[arg-type]


def palette() -> Image.Image:
    image = solid("P", 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


def palette_with_a_transparent_colour() -> Image.Image:
    image = palette()
    image.info["transparency"] = 1
    return image


def grey16() -> Image.Image:
    return Image.fromarray(np.full((64, 64), 0x80FF, np.uint16))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: solid("L", 77), [77, 77, 77]),
        (lambda: solid("1", 1), [255, 255, 255]),
        (palette, [10, 200, 30]),
        (palette_with_a_transparent_colour, [255, 255, 255]),
        (lambda: solid("RGBA", (255, 0, 0, 0)), [255, 255, 255]),
        (lambda: solid("RGBA", (255, 0, 0, 128)), [255, 127, 127]),
        (lambda: solid("LA", (0, 51)), [204, 204, 204]),
        (grey16, [128, 128, 128]),
    ],
    ids=[
        "grey",
        "bilevel",
        "palette",
        "palette transparent",
        "transparent",
        "half transparent",
        "grey alpha",
        "16 bit",
    ],
)
def test_every_mode_becomes_rgb_over_white(make: Callable[[], Image.Image], expected: list[int]) -> None:
    assert np.abs(whole(encoded(make())) - expected).max() <= 1


def test_a_cmyk_jpeg() -> None:
    pixels = whole(encoded(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(pixels - [255, 0, 0]).max() <= 3


def torchvisions_steps(image: Image.Image, steps: Preprocessing, horizontal_first: bool) -> NDArray[np.int16]:
    """Resize(resize, BICUBIC) and CenterCrop(crop) as torchvision does them to a PIL image, one pass after another."""
    width, height = image.size
    short, long = min(image.size), max(image.size)
    scaled = int(steps.resize * long / short)
    size = (steps.resize, scaled) if width <= height else (scaled, steps.resize)
    between = (size[0], height) if horizontal_first else (width, size[1])
    resized = image.resize(between, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC)
    left, top = (int(round((length - steps.crop) / 2.0)) for length in size)  # noqa: RUF046, as torchvision has it
    return np.asarray(resized.crop((left, top, left + steps.crop, top + steps.crop))).astype(np.int16)


@pytest.mark.parametrize("steps", [*PREPROCESSING.values(), Preprocessing(274, 240)], ids=str)
@pytest.mark.parametrize("size", [(500, 375), (334, 500), (333, 500), (1000, 300), (640, 640), (257, 256), (100, 80)])
def test_preprocessing_is_torchvisions(size: tuple[int, int], steps: Preprocessing) -> None:
    image = scene(*size)
    pixels = decode(encoded(image), steps, LIMIT).astype(np.int16)
    # Pillow rounds to 8 bits between its two passes, and takes them in the order that is cheaper for the box.
    differences = [
        np.abs(pixels - torchvisions_steps(image, steps, horizontal_first)).max() for horizontal_first in (True, False)
    ]
    assert min(differences) <= 2


def test_a_very_long_image_costs_only_what_is_seen_of_it() -> None:
    body = encoded(Image.new("1", (2, 20_000_000), 1))
    started = time.process_time()
    assert (decode(body, PREPROCESSING[224], LIMIT) == 255).all()
    assert time.process_time() - started < 3


def test_extreme_shapes() -> None:
    for size in ((1, 1), (1, 2000), (3000, 2)):
        assert decode(encoded(scene(*size)), PREPROCESSING[224], LIMIT).shape == (224, 224, 3)


def test_the_pixel_limit_is_found_before_decoding() -> None:
    header_only = encoded(scene(300, 200))[:100]
    with pytest.raises(TooLarge, match="300 x 200 pixels, over the limit of 59,999"):
        decode(header_only, WHOLE, 59_999)
    with pytest.raises(BadImage):
        decode(header_only, WHOLE, 60_000)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"x", "the bytes are not a JPEG, PNG, WebP, GIF, BMP, AVIF or ICO image"),
        (b"%PDF-1.7", "the image is PDF, which is not supported; convert it to JPEG, PNG or WebP"),
    ],
)
def test_other_files_are_no_images(body: bytes, message: str) -> None:
    with pytest.raises(NotAnImage, match=f"^{message}$"):
        decode(body, WHOLE, LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF", "JPEG", "AVIF"])
def test_a_damaged_image_is_refused_without_the_librarys_words(kind: str) -> None:
    body = encoded(scene(200, 200), kind)
    for cut in (len(body) // 2, 30, 16):
        with pytest.raises(
            BadImage, match=r"^the (PNG|BMP|WebP|GIF|JPEG|AVIF) image is (damaged|incomplete)(: [a-z ]+)?$"
        ):
            decode(body[:cut], WHOLE, LIMIT)


def test_a_file_with_the_head_of_one_format_and_the_body_of_another() -> None:
    with pytest.raises(BadImage):
        decode(b"\xff\xd8\xff" + encoded(scene(64, 64)), WHOLE, LIMIT)


def test_a_motion_photo_is_the_photo() -> None:
    body = encoded(scene(64, 64), "JPEG")
    trailer = np.random.default_rng(0).bytes(9_000_000)  # with a hundred markers of scans, by chance
    assert np.array_equal(whole(body + trailer), whole(body))


def smooth(width: int, height: int) -> Image.Image:
    """A scene whose pixels hardly differ when it is decoded smaller, but for what is shifted or cut off."""
    return scene(40, 30).resize((width, height), Image.Resampling.BICUBIC)


def scaled_and_not(body: bytes, steps: Preprocessing) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    scaled, exact = (decode(body, steps, LIMIT, scaled_jpeg=scaled_jpeg) for scaled_jpeg in (True, False))
    return scaled.astype(np.int16), exact.astype(np.int16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1605, 1203), (1039, 1031), (531, 2303)], ids=str)
def test_a_jpeg_that_is_decoded_smaller_shows_the_same_window(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = encoded(smooth(*size), "JPEG", quality=95, exif=exif)
    for steps in (Preprocessing(32, 28), Preprocessing(64, 64)):  # at an eighth of the size, or a quarter, each odd
        scaled, exact = scaled_and_not(body, steps)
        assert not np.array_equal(scaled, exact)  # it was decoded smaller
        assert np.abs(scaled - exact).mean() < 0.7  # a shift by half a pixel of the smaller image costs more
        assert np.abs(scaled - exact).max() < 12


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"mode": "L"}, {"mode": "CMYK"}], ids=str
)
def test_every_kind_of_jpeg_can_be_decoded_smaller(options: dict[str, object]) -> None:
    image = smooth(1403, 1051).convert(str(options.pop("mode", "RGB")))
    scaled, exact = scaled_and_not(encoded(image, "JPEG", quality=95, **options), PREPROCESSING[224])
    assert not np.array_equal(scaled, exact)
    assert np.abs(scaled - exact).mean() < 0.7


def test_no_image_is_decoded_to_less_than_twice_what_is_needed() -> None:
    for size, smaller in (((512, 600), True), ((511, 600), False)):
        scaled, exact = scaled_and_not(encoded(scene(*size), "JPEG"), Preprocessing(128, 112))
        assert np.array_equal(scaled, exact) != smaller
    for kind in ("PNG", "WEBP"):
        scaled, exact = scaled_and_not(encoded(scene(1200, 900), kind), WHOLE)
        assert np.array_equal(scaled, exact)
