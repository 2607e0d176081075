"""What a CrossViT looked at: its embeddings, and what each patch gives to a class's logit through the last fusion.

The last fusion is all that patches still reach the logits by: each branch's CLS takes the other branch's patches, and
behind it stand one token's projection, LayerNorm and head. So a logit's gradient at that CLS has a closed form, and no
autograd is needed. The contribution of a patch is the first order of what it adds there: the gradient times the
patch's value, weighted by the attention, over all heads. Gradient times attention is of Chefer et al., "Generic
Attention-model Explainability" (ICCV 2021). In shape comments k is the number of classes that are explained, and the
other letters are those of model.crossvit.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.crossvit import LARGE, SMALL, CrossAttention, CrossAttentionBlock, CrossViT, MultiScaleEncoder
from model.spec import PATCH_SIZES


class Inspection(NamedTuple):
    """What the network answered, and what it looked at; the names are those of bundle.inspection.

    Attributes:
        logits: (B, classes), the mean of the two branches' logits, which follow.
        embedding_small: (B, C of S), S's CLS behind its last LayerNorm; embedding_large is L's.
        attention_small: (B, grid, grid) over S's patches, of which L's CLS takes; attention_large is over L's.
        contributions_small: (B, k, grid, grid) of S's patches to the logits; contributions_large are of L's.
    """

    logits: Tensor
    logits_small: Tensor
    logits_large: Tensor
    embedding_small: Tensor
    embedding_large: Tensor
    attention_small: Tensor
    attention_large: Tensor
    contributions_small: Tensor
    contributions_large: Tensor


class LastFusion(NamedTuple):
    """What stands between the tokens of one branch's last fusion and its logits."""

    block: CrossAttentionBlock
    revert_proj: nn.Sequential
    norm: nn.LayerNorm
    head: nn.Linear


class _Fused(NamedTuple):
    """One branch's way through the last fusion; attention and contributions are those of the other one's patches."""

    logits: Tensor  # (B, classes)
    embedding: Tensor  # (B, C)
    attention: Tensor  # (B, N - 1)
    contributions: Tensor  # (B, k, N - 1)


def inspect(network: CrossViT, images: Tensor, classes: Tensor) -> Inspection:
    """Inspect `network` on normalised images (B, 3, side, side), for the logits of `classes` (B, k), by index."""
    to_small, to_large = tokens_to_fuse(network, images)
    small = _fused(last_fusion(network, SMALL), to_small, classes)
    large = _fused(last_fusion(network, LARGE), to_large, classes)
    sides = network.branch_sides(images.shape[-1])
    grid_small, grid_large = (side // patch for side, patch in zip(sides, PATCH_SIZES, strict=True))
    return Inspection(
        logits=(small.logits + large.logits) / 2,
        logits_small=small.logits,
        logits_large=large.logits,
        embedding_small=small.embedding,
        embedding_large=large.embedding,
        attention_small=_as_grid(large.attention, grid_small),
        attention_large=_as_grid(small.attention, grid_large),
        contributions_small=_as_grid(large.contributions, grid_small),
        contributions_large=_as_grid(small.contributions, grid_large),
    )


def tokens_to_fuse(network: CrossViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the last fusion takes: S's CLS before L's patches, and L's before S's, (B, N, C of these) each."""
    small, large = network.tokens(images)
    *encoders, last = network.blocks
    assert isinstance(last, MultiScaleEncoder)
    for encoder in encoders:
        small, large = encoder(small, large)
    small, large = last.before_fusion(small, large)
    return last.to_fuse(SMALL, small, large), last.to_fuse(LARGE, large, small)


def last_fusion(network: CrossViT, branch: int) -> LastFusion:
    """The modules of `branch`."""
    last = network.blocks[-1]
    assert isinstance(last, MultiScaleEncoder)
    block, revert_proj = last.fusion[branch], last.revert_projs[branch]
    norm, head = network.norm[branch], network.head[branch]
    assert isinstance(block, CrossAttentionBlock)
    assert isinstance(revert_proj, nn.Sequential)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(head, nn.Linear)
    return LastFusion(block, revert_proj, norm, head)


def _as_grid(patches: Tensor, grid: int) -> Tensor:
    return patches.reshape(*patches.shape[:-1], grid, grid)


def _fused(modules: LastFusion, tokens: Tensor, classes: Tensor) -> _Fused:
    """`tokens` are the branch's CLS and the other one's patches, (B, N, C of the other)."""
    block, revert_proj, norm, head = modules
    cls = block(tokens)  # (B, 1, C of the other)
    embedding = norm(revert_proj(cls)[:, 0])  # (B, C)
    gradient = F.embedding(classes, head.weight) / 2  # (B, k, C); the answer is the mean of two branches
    gradient = _at_cls(gradient, modules, cls)  # (B, k, C of the other)
    x = block.norm1(tokens)
    weights = block.attn.weights(x)[..., 1:]  # (B, H, N - 1)
    return _Fused(
        logits=head(embedding),
        embedding=embedding,
        attention=weights.mean(dim=1),
        contributions=_contributions(block.attn, x[:, 1:], weights, gradient),
    )


def _at_cls(gradient: Tensor, modules: LastFusion, cls: Tensor) -> Tensor:
    """The gradient at `cls`, the fusion's (B, 1, C of the other), of that at the embedding, (B, k, C)."""
    norm, gelu, linear = modules.revert_proj
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    normed = norm(cls)
    gradient = _through_layer_norm(gradient, modules.norm, linear(gelu(normed)))
    gradient = _through_gelu(gradient @ linear.weight, normed)
    return _through_layer_norm(gradient, norm, cls)


def _through_layer_norm(gradient: Tensor, norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The gradient at `x` (B, 1, C), which `norm` takes, of that at what it gives, (B, k, C)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(dim=-1, keepdim=True) + norm.eps)
    normal = centred * scale
    gradient = gradient * norm.weight
    common = gradient.mean(dim=-1, keepdim=True) + normal * (gradient * normal).mean(dim=-1, keepdim=True)
    return (gradient - common) * scale


def _through_gelu(gradient: Tensor, x: Tensor) -> Tensor:
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return gradient * ((1 + torch.erf(x / math.sqrt(2))) / 2 + x * density)


def _contributions(attention: CrossAttention, patches: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
    """(B, k, N): by `weights` (B, H, N), `patches` (B, N, C) give to what has the `gradient` (B, k, C) at the CLS."""
    heads = attention.heads
    values = (gradient @ attention.proj.weight).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, k, D)
    per_head = values @ attention.wv.weight.unflatten(0, (heads, -1))  # (B, H, k, C)
    given: Tensor = (per_head @ patches.transpose(1, 2).unsqueeze(1)) * weights.unsqueeze(2)  # (B, H, k, N)
    return given.sum(dim=1)
