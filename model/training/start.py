"""The network that a training run starts from: a new one, or a checkpoint made to fit."""

from pathlib import Path

import torch
from torch import nn

from model.bicubic import resize
from model.checkpoint import load_network
from model.crossvit import CrossViT
from model.spec import VARIANTS, patch_grids
from model.training.recipe import Recipe


def starting_network(recipe: Recipe, classes: int, weights: Path | None = None, *, keep_head: bool = True) -> CrossViT:
    """A network with a head of `classes` and the position embeddings of `recipe.side`, for training.

    From `weights` comes all that fits: position embeddings are interpolated (bicubic, the CLS row kept apart). The head
    is begun anew if it has other than `classes` outputs, or is not to be kept. Raises model.checkpoint.BadCheckpoint.
    """
    variant = VARIANTS[recipe.variant]
    torch.manual_seed(recipe.seed)
    if weights is None:
        network = CrossViT(variant, classes, recipe.side)
    else:
        network = load_network(weights, variant)
        regrid(network, recipe.side)
        if network.classes != classes or not keep_head:
            fresh = CrossViT(variant, classes, recipe.side)
            network.head, network.classes = fresh.head, classes
    network.drop_paths(recipe.drop_path)
    return network.train()


def regrid(network: CrossViT, side: int) -> None:
    """Interpolate the position embeddings to those of images of `side` pixels; at the same grid nothing changes."""
    with torch.no_grad():
        for branch, grid in enumerate(patch_grids(side)):
            table = network.pos_embed[branch]
            native = round((table.shape[1] - 1) ** 0.5)
            maps = resize(table[:, 1:].transpose(1, 2).unflatten(-1, (native, native)), grid)
            network.pos_embed[branch] = nn.Parameter(
                torch.cat((table[:, :1], maps.flatten(2).transpose(1, 2)), dim=1).contiguous()
            )
