"""Random and central crops of images, resized on whatever device they lie on."""

import math

import torch
from torch import Tensor

from model.spec import PREPROCESSING

_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)


def random_boxes(sizes: Tensor, least_area: float, generator: torch.Generator) -> Tensor:
    """Boxes (B, 4) for images of `sizes` (B, 2), rows (height, width) in pixels, as Inception's crops are drawn.

    A row is (top, left, height, width) in shares of the image. The area is uniform between `least_area` and all of
    the image, the aspect ratio log-uniform between 3/4 and 4/3; the first of ten draws that fits counts, and the
    largest central box of an allowed ratio where none does. Source: torchvision's RandomResizedCrop, Szegedy et al. 2014.
    """
    count = len(sizes)
    height, width = sizes.float().T.unsqueeze(-1)  # each (B, 1)
    area = torch.empty(count, _TRIES).uniform_(least_area, 1, generator=generator) * height * width
    low, high = map(math.log, _RATIOS)
    ratio = torch.empty(count, _TRIES).uniform_(low, high, generator=generator).exp()
    box = torch.stack(((area / ratio).sqrt(), (area * ratio).sqrt()), dim=-1)  # (B, tries, 2)
    fits = (box <= sizes.float().unsqueeze(1)).all(dim=-1)
    first = fits.int().argmax(dim=1)
    chosen = box[torch.arange(count), first]
    whole = torch.cat((torch.minimum(height, width / _RATIOS[0]), torch.minimum(width, height * _RATIOS[1])), dim=1)
    chosen = torch.where(fits.any(dim=1, keepdim=True), chosen, whole)
    place = torch.rand(count, 2, generator=generator)
    place = torch.where(fits.any(dim=1, keepdim=True), place, torch.full_like(place, 0.5))
    share = chosen / sizes
    return torch.cat((place * (1 - share), share), dim=1)


def central_boxes(sizes: Tensor, side: int) -> Tensor:
    """The boxes (B, 4) that evaluation at `side` looks at: model.spec's protocol of the nearest resolution."""
    steps = PREPROCESSING[224] if side < 384 else PREPROCESSING[384]
    share = sizes.float().min(dim=1, keepdim=True).values * (steps.crop / steps.resize) / sizes
    return torch.cat(((1 - share) / 2, share), dim=1)


def resized(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The `boxes` (B, 4) of `images` (B, 3, H, W), uint8, as float32 (B, 3, side, side) from 0 to 255.

    Bicubic with antialiasing, a = -0.5, as Pillow's, by two matrix products for each image.
    """
    boxes = boxes.to(images.device)
    rows = _matrix(boxes[:, 0], boxes[:, 2], images.shape[2], side).unsqueeze(1)
    columns = _matrix(boxes[:, 1], boxes[:, 3], images.shape[3], side).unsqueeze(1)
    narrowed = (images.float() @ columns.transpose(-1, -2)).clamp_(0, 255)  # Pillow rounds and clips here too
    return (rows @ narrowed).clamp_(0, 255)


def _matrix(start: Tensor, share: Tensor, length: int, side: int) -> Tensor:
    """(B, side, length): what each pixel of an axis gives to each of those that `share` of it becomes, from `start`."""
    scale = (share * length / side).reshape(-1, 1, 1)
    support = scale.clamp(min=1)
    centres = start.reshape(-1, 1, 1) * length + (torch.arange(side, device=start.device).view(1, -1, 1) + 0.5) * scale
    distance = ((torch.arange(length, device=start.device) + 0.5 - centres) / support).abs()
    near = ((1.5 * distance - 2.5) * distance * distance + 1) * (distance < 1)
    far = (((-0.5 * distance + 2.5) * distance - 4) * distance + 2) * ((distance >= 1) & (distance < 2))
    kernel = near + far
    return kernel / kernel.sum(dim=-1, keepdim=True)
