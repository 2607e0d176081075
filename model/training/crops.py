"""Views of images: random and central crops, mirrored or not, resized on whatever device they lie on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.spec import PREPROCESSING

_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Draws:
    """What is left to chance of B crops, whatever the sizes of their images."""

    area: Tensor  # (B, tries), shares of the image
    ratio: Tensor  # (B, tries), width by height
    place: Tensor  # (B, 2), from the one end to the other
    mirrored: Tensor  # (B,)

    def __getitem__(self, which: slice) -> "Draws":
        return Draws(self.area[which], self.ratio[which], self.place[which], self.mirrored[which])


@dataclass(frozen=True)
class View:
    """What is seen of images, as squares of `side` pixels: a random crop of `min_scale` or more, or the centre."""

    side: int
    min_scale: float | None = None

    def draw(self, count: int, seed: int) -> Draws:
        """The chances of `count` crops, which follow from `seed`; half of the random ones are mirrored."""
        chance = torch.Generator().manual_seed(seed)
        area = torch.empty(count, _TRIES).uniform_(self.min_scale or 1, 1, generator=chance)
        low, high = map(math.log, _RATIOS)
        ratio = torch.empty(count, _TRIES).uniform_(low, high, generator=chance).exp()
        place = torch.rand(count, 2, generator=chance)
        mirrored = torch.rand(count, generator=chance) < (0.5 if self.min_scale else 0)
        return Draws(area, ratio, place, mirrored)

    def boxes(self, sizes: Tensor, draws: Draws) -> Tensor:
        """The boxes (B, 4) of images of `sizes` (B, 2): rows (top, left, height, width) in shares of the image."""
        return random_boxes(sizes, draws) if self.min_scale else central_boxes(sizes, self.side)


def random_boxes(sizes: Tensor, draws: Draws) -> Tensor:
    """Boxes (B, 4) for images of `sizes` (B, 2), rows (height, width) in pixels, as Inception's crops are drawn.

    The area is uniform, the aspect ratio log-uniform between 3/4 and 4/3; the first of ten draws that fits counts, and
    the largest central box of an allowed ratio where none does. Source: Szegedy et al. 2014, torchvision's
    RandomResizedCrop.
    """
    height, width = sizes.float().T.unsqueeze(-1)  # each (B, 1)
    area = draws.area * height * width
    drawn = torch.stack(((area / draws.ratio).sqrt(), (area * draws.ratio).sqrt()), dim=-1)  # (B, tries, 2)
    fits = (drawn <= sizes.float().unsqueeze(1)).all(dim=-1)
    fitting = fits.any(dim=1, keepdim=True)
    first = drawn[torch.arange(len(sizes)), fits.int().argmax(dim=1)]
    largest = torch.cat((torch.minimum(height, width / _RATIOS[0]), torch.minimum(width, height * _RATIOS[1])), dim=1)
    share = torch.where(fitting, first, largest) / sizes
    place = torch.where(fitting, draws.place, 0.5)
    return torch.cat((place * (1 - share), share), dim=1)


def central_boxes(sizes: Tensor, side: int) -> Tensor:
    """The boxes (B, 4) that are seen at `side` when the network is used: model.spec's, of the resolution below."""
    steps = PREPROCESSING[max((resolution for resolution in PREPROCESSING if resolution <= side), default=224)]
    share = sizes.float().min(dim=1, keepdim=True).values * (steps.crop / steps.resize) / sizes
    return torch.cat(((1 - share) / 2, share), dim=1)


def resized(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The `boxes` (B, 4) of `images` (B, 3, H, W), uint8, as uint8 (B, 3, side, side).

    Bicubic with antialiasing, a = -0.5, as Pillow's, by two matrix products for each image.
    """
    boxes = boxes.to(images.device)
    rows = _matrix(boxes[:, 0], boxes[:, 2], images.shape[2], side).unsqueeze(1)
    columns = _matrix(boxes[:, 1], boxes[:, 3], images.shape[3], side).unsqueeze(1)
    narrowed = _eight_bits(images.float() @ columns.transpose(-1, -2))  # as Pillow does, here too
    return _eight_bits(rows @ narrowed).to(torch.uint8)


def _eight_bits(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255)


def _matrix(start: Tensor, share: Tensor, length: int, side: int) -> Tensor:
    """(B, side, length): what each pixel of an axis gives to each of those that `share` of it becomes, from `start`."""
    scale = (share * length / side).view(-1, 1, 1)
    pixels, places = torch.arange(length, device=start.device) + 0.5, torch.arange(side, device=start.device) + 0.5
    centres = start.view(-1, 1, 1) * length + places.view(1, -1, 1) * scale
    distance = ((pixels - centres) / scale.clamp(min=1)).abs()
    near = ((1.5 * distance - 2.5) * distance * distance + 1) * (distance < 1)
    far = (((-0.5 * distance + 2.5) * distance - 4) * distance + 2) * ((distance >= 1) & (distance < 2))
    kernel = near + far
    return kernel / kernel.sum(dim=-1, keepdim=True)
