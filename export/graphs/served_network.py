"""The network that is served: pixels in, logits out."""

import torch
from torch import Tensor, nn

from model.crossvit import CrossViT
from model.spec import IMAGENET, Normalization


class OnPixels(nn.Module):
    """`network` behind the host's pixels: normalisation, layout and resizing happen inside the graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: CrossViT, normalization: Normalization = IMAGENET) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(normalization.mean))
        self.register_buffer("std", 255 * torch.tensor(normalization.std))

    def normalized(self, image: Tensor) -> Tensor:
        """uint8 RGB (batch, side, side, 3) to what the network sees, (batch, 3, side, side)."""
        return ((image.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)


class Served(OnPixels):
    """The network that answers."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 RGB (batch, side, side, 3) to logits (batch, classes): the answer, branch S, branch L."""
        small, large = self.network.forward_branches(self.normalized(image))
        return (small + large) / 2, small, large
