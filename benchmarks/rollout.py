"""Attention rollout over both branches, in PyTorch, to compare explanations with.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020): each attention's weights, the mean of its
heads, count half, the residual counts half, and layers are multiplied. Here a token's row says how much of each of the
tokens of both branches, as they were before the first encoder, is in it; a fusion mixes rows of one branch into the CLS
of the other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.crossvit import LARGE, SMALL, Attention, Block, CrossAttentionBlock, CrossViT, MultiScaleEncoder


@torch.no_grad()
def rollout(network: CrossViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """How much of S's patches and of L's is in the answer, (B, grid, grid) each, for (B, 3, side, side)."""
    small, large = network.tokens(images)
    tokens = [small, large]
    before, after = small.shape[1], large.shape[1]
    eye = torch.eye(before + after).expand(len(images), -1, -1)
    rows = [eye[:, :before], eye[:, before:]]
    for encoder in network.blocks:
        assert isinstance(encoder, MultiScaleEncoder)
        tokens, rows = _through(encoder, tokens, rows)
    both = (rows[SMALL][:, 0] + rows[LARGE][:, 0]) / 2  # the answer is the mean of two branches
    return _as_map(both[:, 1:before]), _as_map(both[:, before + 1 :])


def _through(
    encoder: MultiScaleEncoder, tokens: Sequence[Tensor], rows: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    tokens, rows = list(tokens), list(rows)
    for branch, blocks in enumerate(encoder.blocks.children()):
        for block in blocks.children():
            assert isinstance(block, Block)
            rows[branch] = (rows[branch] + _weights(block.attn, block.norm1(tokens[branch])) @ rows[branch]) / 2
            tokens[branch] = block(tokens[branch])
    ways = ((SMALL, LARGE), (LARGE, SMALL))
    fused = [_fused(encoder, branch, tokens, rows) for branch, _ in ways]
    return [encoder.fuse(own, tokens[own], tokens[other]) for own, other in ways], fused


def _fused(encoder: MultiScaleEncoder, branch: int, tokens: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """The rows of `branch` after the fusion, which changes that of its CLS."""
    own, other = rows[branch], rows[1 - branch]
    block = encoder.fusion[branch]
    assert isinstance(block, CrossAttentionBlock)
    to_fuse = encoder.to_fuse(branch, tokens[branch], tokens[1 - branch])
    weights = block.attn.weights(block.norm1(to_fuse)).mean(dim=1, keepdim=True)  # (B, 1, N)
    mixed = weights @ torch.cat((own[:, :1], other[:, 1:]), dim=1)
    return torch.cat(((own[:, :1] + mixed) / 2, own[:, 1:]), dim=1)


def _weights(attention: Attention, x: Tensor) -> Tensor:
    """The mean of the heads' weights, (B, N, N)."""
    query, key, _ = (
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1)
    )
    scores: Tensor = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1).mean(dim=1)


def _as_map(patches: Tensor) -> Tensor:
    grid = round(patches.shape[-1] ** 0.5)
    grids: Tensor = patches.unflatten(-1, (grid, grid))
    return grids
