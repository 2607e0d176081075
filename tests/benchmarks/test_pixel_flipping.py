import numpy as np
import pytest

from benchmarks.pixel_flipping import STEPS, area, curves, spread_over_pixels
from bundle.tensors import Images, Outputs

SIDE = 40
PIXELS = np.full((SIDE, SIDE, 3), 200, np.uint8)
PIXELS[:20, :20] = 0  # the dark corner that `run` answers by


def run(images: Images) -> Outputs:
    """Two classes; the logit of the first says how dark the upper left corner is."""
    darkness = (60 - images[:, :20, :20].mean(axis=(1, 2, 3))) / 10
    return np.stack([np.stack([darkness, 0 * darkness], axis=1).astype(np.float32)] * 3)


def test_a_map_is_spread_over_pixels_and_its_patches_count_by_their_number() -> None:
    small, large = np.zeros((4, 4), np.float32), np.zeros((2, 2), np.float32)
    small[0, 0] = large[1, 1] = 1
    pixels = spread_over_pixels([small, large], SIDE)
    assert pixels[0, 0] == pytest.approx(16)
    assert pixels[-1, -1] == pytest.approx(4)
    assert pixels.mean() == pytest.approx(2, rel=0.2)


def test_a_map_of_what_the_score_hangs_on_deletes_early_and_inserts_early() -> None:
    corner = np.zeros((2, 2), np.float32)
    corner[0, 0] = 1
    maps = {name: spread_over_pixels([grid], SIDE) for name, grid in (("right", corner), ("wrong", -corner))}
    found = curves(PIXELS, maps, 0, run)
    for name, lower, higher in (("deletion", "right", "wrong"), ("insertion", "wrong", "right")):
        assert area(found[lower][name]) < area(found[higher][name])
    for each in found.values():
        assert len(each["deletion"]) == len(each["insertion"]) == STEPS + 1
        assert each["deletion"][0] == each["insertion"][-1]


def test_the_area_under_a_straight_line_is_its_mean() -> None:
    assert area([1.0, 0.5, 0.0]) == pytest.approx(0.5)
