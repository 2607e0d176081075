"""The network that a training run starts from: a new one, or a checkpoint made to fit."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from model.bicubic import resize
from model.checkpoint import BadCheckpoint, silent
from model.crossvit import CrossViT
from model.labels import LabelEntry
from model.loaded_network import load_network
from model.spec import VARIANTS, patch_grids
from model.training.artifacts import has_classes
from model.training.recipe import Recipe

HeadChoice = Literal["auto", "keep", "new"]


def starting_network(
    recipe: Recipe,
    labels: Sequence[LabelEntry],
    weights: Path | None = None,
    head: HeadChoice = "auto",
    say: Callable[[str], None] = silent,
) -> tuple[CrossViT, bool]:
    """A network with outputs for `labels` and the position embeddings of `recipe.resolution`, in training mode.

    The second value says whether the head of `weights` was kept. Raises model.checkpoint.BadCheckpoint, also if
    `head` is "keep" and the head has another number of classes.

    Args:
        recipe: names the variant, the resolution, the seed and the drop path rate.
        labels: the classes of the images.
        weights: a checkpoint to start from; its position embeddings are interpolated (bicubic, without the CLS row).
        head: "auto" keeps the head if its classes are known to be `labels`.
        say: is told which parts of the file were passed over.
    """
    variant = VARIANTS[recipe.variant]
    torch.manual_seed(recipe.seed)
    fresh = CrossViT(variant, len(labels), recipe.resolution)
    network, kept = fresh, False
    if weights is not None:
        network = load_network(weights, variant, say)
        regrid(network, recipe.resolution)
        kept = head == "keep" or (head == "auto" and has_classes(weights, network.classes, labels))
        if kept and network.classes != len(labels):
            raise BadCheckpoint(
                f"{weights.name} has {network.classes} classes, the images {len(labels)}: use --head new"
            )
        if not kept:
            network.head, network.classes = fresh.head, fresh.classes
    network.drop_paths(recipe.drop_path)
    return network.train(), kept


def regrid(network: CrossViT, side: int) -> None:
    """Interpolate the position embeddings to those of images of `side` pixels; at the same grid nothing changes."""
    with torch.no_grad():
        for branch, grid in enumerate(patch_grids(side)):
            table = network.pos_embed[branch]
            native = math.isqrt(table.shape[1] - 1)
            maps = resize(table[:, 1:].transpose(1, 2).unflatten(-1, (native, native)), grid)
            interpolated = torch.cat((table[:, :1], maps.flatten(2).transpose(1, 2)), dim=1)
            network.pos_embed[branch] = nn.Parameter(interpolated.contiguous())
