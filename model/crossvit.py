"""CrossViT in PyTorch. Reads bottom-up: the network is the last class.

Names follow IBM's released code, so that its checkpoints load as they are. In shape comments B is the batch,
N a branch's tokens with CLS, C its width, H the heads and D the width of a head.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.bicubic import resize
from model.spec import ENCODERS, IMAGENET_CLASSES, PATCH_SIZES, Variant, branch_sides, follow_from_one_side, patch_grids

SMALL, LARGE = 0, 1


def layer_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6)


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, C) to (B, N, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        dim = x.shape[-1]
        q, k, v = (  # each (B, H, N, D)
            F.linear(x, self.qkv.weight[i : i + dim], self.qkv.bias[i : i + dim])
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
            for i in (0, dim, 2 * dim)
        )
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


def stochastic_depth(residual: Tensor, rate: float) -> Tensor:
    """`residual` (B, N, C), left out for a share `rate` of the images, the others' scaled up. Huang et al. 2016."""
    if rate == 0:
        return residual
    kept = torch.empty(len(residual), 1, 1, device=residual.device).bernoulli_(1 - rate) / (1 - rate)
    return residual * kept.to(residual.dtype)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block, (B, N, C) to (B, N, C)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.drop_path = 0.0  # how often a residual is left out of a training image's way
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._kept(self.attn(self.norm1(x)))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, residual: Tensor) -> Tensor:
        return stochastic_depth(residual, self.drop_path) if self.training else residual


class CrossAttention(nn.Module):
    """Attention whose only query is CLS, the first token: (B, N, C) to (B, 1, C). Paper, section 3.3.

    With one query, q (W_k x)^T = (q W_k) x^T and a (W_v x) = (a x) W_v^T: the tokens are never turned into keys
    and values, which saves two N x C x C products. Exact: the key bias shifts all of a query's scores alike and
    cancels in the softmax, and the weights a sum to 1, so the value bias passes through.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(dim, dim)
        self.wk = nn.Linear(dim, dim)
        self.wk.bias.requires_grad_(False)  # it cancels: there is nothing to learn
        self.wv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        mixed = (self.weights(x) @ x).transpose(0, 1)  # (H, B, C)
        value = mixed @ self.wv.weight.unflatten(0, (self.heads, -1)).transpose(1, 2)  # (H, B, D)
        value = value.transpose(0, 1).flatten(1) + self.wv.bias  # (B, C)
        return self.proj(value).unsqueeze(1)

    def weights(self, x: Tensor) -> Tensor:
        """How much each head's CLS takes of each token, (B, N, C) to (B, H, N); they sum to 1."""
        dim = x.shape[-1]
        scale = math.sqrt(self.heads / dim)  # 1 / sqrt(D)
        q = (self.wq(x[:, 0]) * scale).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (H, B, D)
        query = (q @ self.wk.weight.unflatten(0, (self.heads, -1))).transpose(0, 1)  # (B, H, C)
        return (query @ x.transpose(1, 2)).softmax(dim=-1)


class CrossAttentionBlock(nn.Module):
    """Fuses CLS with another branch's patches, (B, N, C) to the new CLS (B, 1, C); there is no MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.drop_path = 0.0
        self.norm1 = layer_norm(dim)
        self.attn = CrossAttention(dim, heads)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.attn(self.norm1(x))
        return x[:, :1] + (stochastic_depth(residual, self.drop_path) if self.training else residual)


def projection(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(layer_norm(dim), nn.GELU(), nn.Linear(dim, out))


class MultiScaleEncoder(nn.Module):
    """Both branches' blocks, then one cross-attention fusion each way. Paper, figure 3 and equations 3 to 5."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.depth = variant.depth
        dims, other_dims = variant.dims, variant.dims[::-1]
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(dim, variant.heads, variant.mlp_ratio) for _ in range(depth)))
            for dim, depth in zip(dims, (1, variant.depth), strict=True)
        )
        self.projs = nn.ModuleList(map(projection, dims, other_dims))
        self.fusion = nn.ModuleList(CrossAttentionBlock(other, variant.heads) for other in other_dims)
        self.revert_projs = nn.ModuleList(map(projection, other_dims, dims))

    def forward(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        small, large = self.before_fusion(small, large)
        # Both ways read the tokens as they were before fusion.
        return self.fuse(SMALL, small, large), self.fuse(LARGE, large, small)

    def before_fusion(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of both branches after their own blocks."""
        return self.blocks[SMALL](small), self.blocks[LARGE](large)

    def to_fuse(self, branch: int, own: Tensor, other: Tensor) -> Tensor:
        """The CLS of `branch` and the other branch's patches, (B, N, C) each of that branch."""
        return torch.cat((self.projs[branch](own[:, :1]), other[:, 1:]), dim=1)

    def fuse(self, branch: int, own: Tensor, other: Tensor) -> Tensor:
        """The tokens of `branch`, (B, N, C), after its CLS took the other branch's patches."""
        cls = self.fusion[branch](self.to_fuse(branch, own, other))  # (B, 1, C of the other)
        return torch.cat((self.revert_projs[branch](cls), own[:, 1:]), dim=1)

    def drop_paths(self, rates: Sequence[float]) -> None:
        """Stochastic depth: the rates of L's blocks; S's one has the first, the fusion the last."""
        for module in self.modules():
            if isinstance(module, CrossAttentionBlock):
                module.drop_path = rates[-1]
        for branch in self.blocks.children():
            for block, rate in zip(branch.children(), rates, strict=False):
                assert isinstance(block, Block)
                block.drop_path = rate


class PatchEmbed(nn.Module):
    """Pixels to patches: (B, 3, side, side) to (B, C, side / patch, side / patch)."""

    def __init__(self, patch: int, dim: int, dagger: bool) -> None:
        super().__init__()
        self.proj = _dagger_stem(patch, dim) if dagger else nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


def _dagger_stem(patch: int, dim: int) -> nn.Sequential:
    """Three convolutions instead of one: strides 4, 3, 1 for patch 12 and 4, 2, 2 for patch 16."""
    second, third, padding = (3, 1, 0) if patch == 12 else (2, 2, 1)
    return nn.Sequential(
        nn.Conv2d(3, dim // 4, 7, stride=4, padding=3),
        nn.ReLU(),
        nn.Conv2d(dim // 4, dim // 2, 3, stride=second, padding=padding),
        nn.ReLU(),
        nn.Conv2d(dim // 2, dim, 3, stride=third, padding=1),
    )


def _initialise(module: nn.Module) -> None:
    """DeiT's initial weights, as the paper trains from: linear layers near zero, the rest as PyTorch has it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class CrossViT(nn.Module):
    """The network of `variant`, with `classes` outputs and position embeddings for images of `resolution` pixels.

    Any square image works: position embeddings are interpolated (bicubic) to its grid, CLS kept apart. `grids` are
    patches along one side (S, L) instead of a resolution's. If they follow from no image side, as those of
    timm's img_size=360 (30, 21), the branches see every image at the sides of these grids.
    """

    def __init__(
        self,
        variant: Variant,
        classes: int = IMAGENET_CLASSES,
        resolution: int | None = None,
        grids: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        dims = variant.dims
        grids = grids or patch_grids(resolution or variant.resolution)
        self.pos_embed = nn.ParameterList(
            torch.zeros(1, 1 + grid * grid, dim) for grid, dim in zip(grids, dims, strict=True)
        )
        self.cls_token = nn.ParameterList(torch.zeros(1, 1, dim) for dim in dims)
        self.patch_embed = nn.ModuleList(
            PatchEmbed(patch, dim, variant.dagger) for patch, dim in zip(PATCH_SIZES, dims, strict=True)
        )
        self.blocks = nn.ModuleList(MultiScaleEncoder(variant) for _ in range(ENCODERS))
        self.norm = nn.ModuleList(map(layer_norm, dims))
        self.head = nn.ModuleList(nn.Linear(dim, classes) for dim in dims)
        self.apply(_initialise)
        for embedding in (*self.pos_embed, *self.cls_token):
            nn.init.trunc_normal_(embedding, std=0.02)

    @property
    def sides(self) -> tuple[int, int]:
        """What the position embeddings are for: sides (S, L) in pixels. L's is what people call the resolution."""
        small, large = (
            patch * math.isqrt(positions.shape[1] - 1)
            for patch, positions in zip(PATCH_SIZES, self.pos_embed, strict=True)
        )
        return small, large

    def branch_sides(self, side: int) -> tuple[int, int]:
        """Sides (S, L) in pixels at which the branches see an image of `side` pixels."""
        return branch_sides(side) if follow_from_one_side(*self.sides) else self.sides

    def drop_paths(self, rate: float) -> None:
        """Stochastic depth for training, as the released code has it.

        It rises from block to block of L, from 0 to `rate`; S and the fusion go along.
        """
        encoders = [encoder for encoder in self.blocks if isinstance(encoder, MultiScaleEncoder)]
        depth = encoders[0].depth
        rates = torch.linspace(0, rate, depth * len(encoders)).tolist()
        for number, encoder in enumerate(encoders):
            encoder.drop_paths(rates[number * depth : (number + 1) * depth])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, side, side): the mean of both branches' logits."""
        small, large = self.forward_branches(images)
        return (small + large) / 2

    def forward_branches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (B, classes) of branch S and of branch L, each by its own head."""
        small, large = self.tokens(images)
        for encoder in self.blocks:
            small, large = encoder(small, large)
        return self._logits(SMALL, small), self._logits(LARGE, large)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """CLS and patches of both branches, with their positions, before the first encoder."""
        sides = self.branch_sides(images.shape[-1])
        small, large = (self._tokens(branch, resize(images, sides[branch])) for branch in (SMALL, LARGE))
        return small, large

    def _tokens(self, branch: int, images: Tensor) -> Tensor:
        """CLS and patches with their positions: (B, 3, side, side) to (B, N, C)."""
        x = self.patch_embed[branch](images)  # (B, C, grid, grid)
        cls_position, positions = self._positions(branch)
        positions = resize(positions, x.shape[-1])
        cls = self.cls_token[branch] + cls_position
        table = torch.cat((cls, positions.flatten(2).transpose(1, 2)), dim=1)  # (1, N, C)
        # CLS has its place by padding with zeros, not by repeating it: the exported graph then asks for no batch size.
        return F.pad(x.flatten(2).transpose(1, 2), (0, 0, 1, 0)) + table

    def _positions(self, branch: int) -> tuple[Tensor, Tensor]:
        """The position embedding of CLS (1, 1, C), and the trained ones of the patches as a map (1, C, grid, grid)."""
        positions = self.pos_embed[branch]
        grid = math.isqrt(positions.shape[1] - 1)
        return positions[:, :1], positions[:, 1:].transpose(1, 2).unflatten(-1, (grid, grid))

    def _logits(self, branch: int, x: Tensor) -> Tensor:
        return self.head[branch](self.norm[branch](x[:, 0]))
