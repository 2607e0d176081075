"""DeiT's augmentation of a batch, on the network's device: RandAugment, random erasing, mixup and cutmix.

Random numbers are from PyTorch's global generator, which the caller seeds. Pixels are from 0 to 1. kornia.augmentation
draws otherwise, so its operations alone are used: it has one RandAugment policy for a batch, uniform lambdas of mixup,
cutmix's rectangles always inside the image, and rectangles erased to one colour, with ratios that are not log-uniform.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia import enhance
from torch import Tensor

_MAX_MAGNITUDE = 10
_MAGNITUDE_SPREAD = 0.5  # standard deviation
_OPERATIONS_PER_IMAGE = 2
_APPLY_PROBABILITY = 0.5  # of each operation
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = 0.3

Operation = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W), strength (B,) from 0 to 1, to images


@dataclass(frozen=True)
class Mixture:
    """Mixed images: the share `lam` of each is of the first of `targets`, the rest of the second, each (B,)."""

    images: Tensor
    targets: tuple[Tensor, Tensor]
    lam: float

    def loss(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """The sum of the images' cross-entropies, of `logits` (B, classes)."""
        one, other = (
            F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
            for targets in self.targets
        )
        return self.lam * one + (1 - self.lam) * other


def rand_augment(images: Tensor, magnitude: float) -> Tensor:
    """Two operations, each left out half of the time, for each image. Cubuk et al. 2019, after timm's.

    The set is timm's "increasing" one, where a larger magnitude always changes more; `magnitude` is of 10, with a
    normal spread of 0.5. Pixels from outside an image have its mean colour.
    """
    images = images.clone()
    for _ in range(_OPERATIONS_PER_IMAGE):
        chosen = torch.randint(len(OPERATIONS), (len(images),))
        chosen[torch.rand(len(images)) >= _APPLY_PROBABILITY] = -1
        strength = (torch.randn(len(images)) * _MAGNITUDE_SPREAD + magnitude).clamp(0, _MAX_MAGNITUDE) / _MAX_MAGNITUDE
        for number, operation in enumerate(OPERATIONS):
            indices = (chosen == number).nonzero().squeeze(1)
            if len(indices):
                on_device = indices.to(images.device)
                images[on_device] = operation(images[on_device], strength[indices].to(images.device)).clamp(0, 1)
    return images


def erase(images: Tensor, share: float) -> Tensor:
    """A rectangle of noise in a `share` of the normalised `images`, 2 % to a third of them large. Zhong et al. 2017."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(*_ERASED_AREA)
    ratio = torch.empty(count).uniform_(math.log(_ERASED_RATIO), -math.log(_ERASED_RATIO)).exp()
    lengths = torch.stack(((area * ratio).sqrt(), (area / ratio).sqrt()), dim=1).clamp(max=1)
    lengths[torch.rand(count) >= share] = 0
    starts = torch.rand(count, 2) * (1 - lengths)
    inside = rectangles(starts, lengths, height, width).to(images.device)
    return torch.where(inside, torch.randn_like(images), images)


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> Mixture:
    """Each image mixed with another of the batch, by mixup or cutmix, each half of the time.

    `mixup` and `cutmix` are the alphas of lambda's beta distribution, 0 for never. Zhang et al. 2017; Yun et al.
    2019.
    """
    options = [(alpha, blend) for alpha, blend in ((mixup, _blended), (cutmix, _pasted)) if alpha > 0]
    if not options:
        return Mixture(images, (targets, targets), 1.0)
    alpha, blend = options[int(torch.randint(len(options), ()))]
    # At random: repetitions of an image are side by side; in reverse order all would meet the same other image.
    partners = torch.randperm(len(images)).to(images.device)
    mixed, lam = blend(images, images[partners], torch.distributions.Beta(alpha, alpha).sample().item())
    return Mixture(mixed, (targets, targets[partners]), lam)


def rectangles(starts: Tensor, lengths: Tensor, height: int, width: int) -> Tensor:
    """Masks (B, 1, H, W), True in a rectangle: `starts` and `lengths` (B, 2) are shares of the image."""
    rows, columns = (
        (places >= starts[:, axis, None]) & (places < (starts + lengths)[:, axis, None])
        for axis, places in enumerate((torch.arange(size) + 0.5) / size for size in (height, width))
    )
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _blended(images: Tensor, others: Tensor, lam: float) -> tuple[Tensor, float]:
    return lam * images + (1 - lam) * others, lam


def _pasted(images: Tensor, others: Tensor, lam: float) -> tuple[Tensor, float]:
    """Paste one rectangle of the others, centred anywhere; the new lambda is the share of the images that remains."""
    lengths = torch.full((1, 2), math.sqrt(1 - lam))
    inside = rectangles(torch.rand(1, 2) - lengths / 2, lengths, *images.shape[2:]).to(images.device)
    return torch.where(inside, others, images), 1 - inside.float().mean().item()


def _warped(matrix: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> Operation:
    """An affine operation: `matrix` gives the six numbers of the map from 0 and the signed strength, each (B,)."""

    def operation(images: Tensor, strength: Tensor) -> Tensor:
        strength = _signed(strength)
        numbers = torch.stack(matrix(torch.zeros_like(strength), strength), dim=1).view(-1, 2, 3)
        grid = F.affine_grid(numbers, list(images.shape), align_corners=False)
        grey = images.mean(dim=(2, 3), keepdim=True)  # for pixels from outside
        return F.grid_sample(images - grey, grid, align_corners=False) + grey

    return operation


def _blend(towards: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    """An operation of Pillow's ImageEnhance, with a factor of up to 0.9 under or over 1."""
    return lambda images, strength: towards(images, 1 + 0.9 * _signed(strength))


def _signed(strength: Tensor) -> Tensor:
    return torch.where(torch.rand(len(strength)).to(strength.device) < 0.5, -strength, strength)


def _rotation(zero: Tensor, strength: Tensor) -> tuple[Tensor, ...]:
    angle = math.radians(30) * strength
    return angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-6), images)


def _solarize_add(images: Tensor, strength: Tensor) -> Tensor:
    return torch.where(images < 0.5, images + 110 / 255 * strength.view(-1, 1, 1, 1), images)


OPERATIONS: tuple[Operation, ...] = (
    _autocontrast,
    lambda images, _: enhance.equalize(images),
    lambda images, _: 1 - images,
    _warped(_rotation),
    lambda images, strength: enhance.posterize(images, 4 - (4 * strength).int()),
    lambda images, strength: torch.where(images < 1 - strength.view(-1, 1, 1, 1), images, 1 - images),  # solarize
    _solarize_add,
    _blend(enhance.adjust_saturation_with_gray_subtraction),
    _blend(enhance.adjust_contrast_with_mean_subtraction),
    _blend(lambda images, factor: images * factor.view(-1, 1, 1, 1)),
    _blend(enhance.sharpness),
    _warped(lambda zero, s: (zero + 1, 0.3 * s, zero, zero, zero + 1, zero)),
    _warped(lambda zero, s: (zero + 1, zero, zero, 0.3 * s, zero + 1, zero)),
    _warped(lambda zero, s: (zero + 1, zero, 0.9 * s, zero, zero + 1, zero)),  # 0.45 of the width, which is 2 long
    _warped(lambda zero, s: (zero + 1, zero, zero, zero, zero + 1, 0.9 * s)),
)
