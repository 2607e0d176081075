"""Random crops of images, mirrored or not: where they lie, and resizing on the device of the images."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_TRIES = 10
_ASPECT_RATIOS = (3 / 4, 4 / 3)
_MIRRORED_SHARE = 0.5


@dataclass(frozen=True)
class Draws:
    """Random numbers for B crops, which do not depend on the sizes of the images.

    Attributes:
        area: (B, tries), shares of the image's area.
        ratio: (B, tries), width by height.
        place: (B, 2), from 0 at the one end to 1 at the other, (rows, columns).
        mirrored: (B,), bool.
    """

    area: Tensor
    ratio: Tensor
    place: Tensor
    mirrored: Tensor

    def __getitem__(self, which: slice) -> "Draws":
        return Draws(
            area=self.area[which],
            ratio=self.ratio[which],
            place=self.place[which],
            mirrored=self.mirrored[which],
        )


@dataclass(frozen=True)
class RandomView:
    """Random crops of `min_scale` of the image or more, as squares of `side` pixels; half of them are mirrored."""

    side: int
    min_scale: float

    def draw(self, count: int, seed: int) -> Draws:
        """The random numbers of `count` crops; they depend only on `seed`."""
        generator = torch.Generator().manual_seed(seed)
        area = torch.empty(count, _TRIES).uniform_(self.min_scale, 1, generator=generator)
        low, high = map(math.log, _ASPECT_RATIOS)
        ratio = torch.empty(count, _TRIES).uniform_(low, high, generator=generator).exp()
        place = torch.rand(count, 2, generator=generator)
        mirrored = torch.rand(count, generator=generator) < _MIRRORED_SHARE
        return Draws(area=area, ratio=ratio, place=place, mirrored=mirrored)


def random_boxes(sizes: Tensor, draws: Draws) -> Tensor:
    """Boxes (B, 4) for images of `sizes` (B, 2), drawn as Inception's crops.

    Sizes are rows (height, width) in pixels; boxes are rows (top, left, height, width) in shares of the image. The area
    is uniform, the aspect ratio log-uniform between 3/4 and 4/3. The first of ten draws that fits counts; if none fits,
    the largest central box of an allowed ratio does. Source: Szegedy et al. 2014, torchvision's
    RandomResizedCrop.
    """
    height, width = sizes.float().T.unsqueeze(-1)  # each (B, 1)
    area = draws.area * height * width
    drawn = torch.stack(((area / draws.ratio).sqrt(), (area * draws.ratio).sqrt()), dim=-1)  # (B, tries, 2)
    fits = (drawn <= sizes.float().unsqueeze(1)).all(dim=-1)
    fitting = fits.any(dim=1, keepdim=True)
    first = drawn[torch.arange(len(sizes)), fits.int().argmax(dim=1)]
    narrowest, widest = _ASPECT_RATIOS
    largest = torch.cat((torch.minimum(height, width / narrowest), torch.minimum(width, height * widest)), dim=1)
    share = torch.where(fitting, first, largest) / sizes
    place = torch.where(fitting, draws.place, 0.5)
    return torch.cat((place * (1 - share), share), dim=1)


def crop_and_resize(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The `boxes` (B, 4) of `images` (B, 3, H, W), uint8, as uint8 (B, 3, side, side).

    Pillow's bicubic (a = -0.5, antialiased), up to one level, by two matrix products for each image.
    """
    boxes = boxes.to(images.device)
    rows = _matrix(boxes[:, 0], boxes[:, 2], images.shape[2], side).unsqueeze(1)
    columns = _matrix(boxes[:, 1], boxes[:, 3], images.shape[3], side).unsqueeze(1)
    narrowed = _eight_bits(images.float() @ columns.transpose(-1, -2))  # Pillow rounds between its passes
    return _eight_bits(rows @ narrowed).to(torch.uint8)


def _eight_bits(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255)


def _matrix(start: Tensor, share: Tensor, length: int, side: int) -> Tensor:
    """Weights (B, side, length) of an axis' pixels for each of the `side` pixels made of `share` of it from `start`."""
    scale = (share * length / side).view(-1, 1, 1)
    pixels, places = torch.arange(length, device=start.device) + 0.5, torch.arange(side, device=start.device) + 0.5
    centres = start.view(-1, 1, 1) * length + places.view(1, -1, 1) * scale
    distance = ((pixels - centres) / scale.clamp(min=1)).abs()
    near = ((1.5 * distance - 2.5) * distance * distance + 1) * (distance < 1)
    far = (((-0.5 * distance + 2.5) * distance - 4) * distance + 2) * ((distance >= 1) & (distance < 2))
    kernel = near + far
    return kernel / kernel.sum(dim=-1, keepdim=True)
