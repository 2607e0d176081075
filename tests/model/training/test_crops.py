from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from app.decoding.image import decode
from model.spec import PREPROCESSING
from model.training.crops import View, central_boxes, resized
from tests.model.training.made import stripes


@pytest.mark.parametrize("side", [32, 64, 224])
def test_crops_are_resized_as_pillow_does(side: int) -> None:
    images = torch.randint(0, 256, (8, 3, 64, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    sizes = torch.tensor([[64.0, 48.0]]).expand(8, 2)
    view = View(side, 0.08)
    boxes = view.boxes(sizes, view.draw(8, 1))
    seen = resized(images, boxes, side).permute(0, 2, 3, 1).numpy().astype(int)
    for image, (top, left, height, width), ours in zip(images, boxes.tolist(), seen, strict=True):
        area = (left * 48, top * 64, (left + width) * 48, (top + height) * 64)
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        pillows = np.asarray(whole.resize((side, side), Image.Resampling.BICUBIC, box=area)).astype(int)
        assert abs(ours - pillows).max() <= 1


def test_random_boxes_lie_inside_with_the_areas_and_ratios_of_inceptions() -> None:
    sizes = torch.tensor([[300.0, 400.0]]).expand(4000, 2)
    view = View(64, 0.08)
    top, left, height, width = view.boxes(sizes, view.draw(4000, 0)).T
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


def test_of_a_very_long_image_the_centre_is_taken() -> None:
    view = View(64, 0.5)
    box = view.boxes(torch.tensor([[10.0, 1000.0]]), view.draw(1, 0))[0].tolist()
    assert box == pytest.approx([0, (1 - 4 / 300) / 2, 1, 4 / 300])


@pytest.mark.parametrize("resolution", [224, 384])
@pytest.mark.parametrize("size", [(64, 64), (500, 375), (300, 451)])
def test_the_centre_is_what_the_service_sees(size: tuple[int, int], resolution: int) -> None:
    image = stripes(2, 0).resize(size, Image.Resampling.BICUBIC)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    served = decode(buffer.getvalue(), PREPROCESSING[resolution], 10**7).astype(int)
    boxes = central_boxes(torch.tensor([[size[1], size[0]]]), resolution)
    ours = resized(torch.tensor(np.asarray(image)).permute(2, 0, 1).unsqueeze(0), boxes, resolution)
    # The service rounds the resized image's sides and the crop's place to pixels.
    difference = abs(ours[0].permute(1, 2, 0).numpy().astype(int) - served).mean()
    assert difference < 2.5


def test_a_view_follows_from_its_seed_and_mirrors_half_of_the_images() -> None:
    sizes = torch.tensor([[64.0, 64.0]]).expand(1000, 2)
    view = View(64, 0.25)
    one, same, other = (view.draw(1000, seed) for seed in (7, 7, 8))
    assert torch.equal(view.boxes(sizes, one), view.boxes(sizes, same))
    assert torch.equal(one.mirrored, same.mirrored)
    assert not torch.equal(view.boxes(sizes, one), view.boxes(sizes, other))
    assert torch.equal(view.boxes(sizes[5:8], one[5:8]), view.boxes(sizes, one)[5:8])
    assert 400 < one.mirrored.sum() < 600
    assert not View(64).draw(1000, 7).mirrored.any()
