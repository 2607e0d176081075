import numpy as np
import pytest
import torch
from PIL import Image

from model.training.crops import RandomView, crop_and_resize, random_boxes


@pytest.mark.parametrize("side", [32, 64, 224])
def test_crops_are_resized_as_pillow_does(side: int) -> None:
    images = torch.randint(0, 256, (8, 3, 64, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    sizes = torch.tensor([[64.0, 48.0]]).expand(8, 2)
    view = RandomView(side, 0.08)
    boxes = random_boxes(sizes, view.draw(8, 1))
    seen = crop_and_resize(images, boxes, side).permute(0, 2, 3, 1).numpy().astype(int)
    for image, (top, left, height, width), ours in zip(images, boxes.tolist(), seen, strict=True):
        area = (left * 48, top * 64, (left + width) * 48, (top + height) * 64)
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        pillows = np.asarray(whole.resize((side, side), Image.Resampling.BICUBIC, box=area)).astype(int)
        assert abs(ours - pillows).max() <= 1


def test_random_boxes_lie_inside_with_the_areas_and_ratios_of_inceptions() -> None:
    sizes = torch.tensor([[300.0, 400.0]]).expand(4000, 2)
    view = RandomView(64, 0.08)
    top, left, height, width = random_boxes(sizes, view.draw(4000, 0)).T
    for start, length in ((top, height), (left, width)):
        assert start.min() >= 0
        assert (start + length).max() <= 1 + 1e-6
    area, ratio = height * width, width * 400 / (height * 300)
    assert area.min() >= 0.08 - 1e-6
    assert ratio.min() >= 3 / 4 - 1e-4
    assert ratio.max() <= 4 / 3 + 1e-4
    assert ratio.log().mean().abs() < 0.06  # the image is wide, and so is what fits
    assert 0.4 < area.mean() < 0.48  # uniform from 0.08 to 1, but of the large ones few fit
    assert area.max() > 0.95


def test_a_crop_of_a_very_long_image_is_its_centre() -> None:
    view = RandomView(64, 0.5)
    box = random_boxes(torch.tensor([[10.0, 1000.0]]), view.draw(1, 0))[0].tolist()
    assert box == pytest.approx([0, (1 - 4 / 300) / 2, 1, 4 / 300])


def test_a_view_follows_from_its_seed_and_mirrors_half_of_the_images() -> None:
    sizes = torch.tensor([[64.0, 64.0]]).expand(1000, 2)
    view = RandomView(64, 0.25)
    one, same, other = (view.draw(1000, seed) for seed in (7, 7, 8))
    assert torch.equal(random_boxes(sizes, one), random_boxes(sizes, same))
    assert torch.equal(one.mirrored, same.mirrored)
    assert not torch.equal(random_boxes(sizes, one), random_boxes(sizes, other))
    assert torch.equal(random_boxes(sizes[5:8], one[5:8]), random_boxes(sizes, one)[5:8])
    assert 400 < one.mirrored.sum() < 600
