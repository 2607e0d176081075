"""Contributions by PyTorch's autograd, which the closed form of model.fusion_inspection is compared with.

The last fusion is written out as the paper has it, with keys and values of all tokens, and no gradient is taken by
hand: a patch's contribution is its attention-weighted value times the logit's gradient there.
"""

import math

import torch
from torch import Tensor

from model.crossvit import LARGE, SMALL, CrossViT
from model.fusion_inspection import LastFusion, last_fusion, tokens_to_fuse


def autograd_contributions(network: CrossViT, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Of the patches of S and of L, (B, k, grid, grid) each, to the logits of `classes` (B, k)."""
    with torch.no_grad():
        to_small, to_large = tokens_to_fuse(network, images)
    of_small = _of_patches(last_fusion(network, LARGE), to_large, classes)
    return of_small, _of_patches(last_fusion(network, SMALL), to_small, classes)


def _of_patches(modules: LastFusion, tokens: Tensor, classes: Tensor) -> Tensor:
    x, attention = modules.block.norm1(tokens), modules.block.attn
    query, key, value = (
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # (B, H, N or 1, D)
        for part in (attention.wq(x[:, :1]), attention.wk(x), attention.wv(x) - attention.wv.bias)
    )
    weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(dim=-1)  # (B, H, 1, N)
    weighted = (weights.transpose(2, 3) * value).detach().requires_grad_()  # (B, H, N, D)
    cls = tokens[:, 0] + attention.proj(weighted.sum(dim=2).flatten(1) + attention.wv.bias)
    logits = modules.head(modules.norm(modules.revert_proj(cls))) / 2  # the answer is the mean of two branches
    grid = math.isqrt(weighted.shape[2] - 1)
    found = []
    for chosen in classes.unbind(dim=1):
        logit = logits.gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(logit, weighted, retain_graph=True)
        found.append((gradient * weighted).sum(dim=(1, 3))[:, 1:].unflatten(-1, (grid, grid)))
    return torch.stack(found, dim=1).detach()
