"""The parameters of CrossViT by name and shape, as plain data; imports no torch. Reads bottom-up.

Names are IBM's, in the order of the state_dict of model.crossvit.CrossViT.
"""

from collections.abc import Iterator

from model.spec import ENCODERS, IMAGENET_CLASSES, PATCH_SIZES, Variant, patch_grids

Shape = tuple[int, ...]
_Parameters = Iterator[tuple[str, Shape]]


def _linear(name: str, inputs: int, outputs: int) -> _Parameters:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _layer_norm(name: str, dim: int) -> _Parameters:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)


def _convolution(name: str, inputs: int, outputs: int, kernel: int) -> _Parameters:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{name}.bias", (outputs,)


def _block(name: str, dim: int, mlp_ratio: int) -> _Parameters:
    """A transformer block: self-attention and MLP."""
    yield from _layer_norm(f"{name}.norm1", dim)
    yield from _linear(f"{name}.attn.qkv", dim, 3 * dim)
    yield from _linear(f"{name}.attn.proj", dim, dim)
    yield from _layer_norm(f"{name}.norm2", dim)
    yield from _linear(f"{name}.mlp.fc1", dim, mlp_ratio * dim)
    yield from _linear(f"{name}.mlp.fc2", mlp_ratio * dim, dim)


def _fusion(name: str, dim: int) -> _Parameters:
    """Cross-attention, without an MLP."""
    yield from _layer_norm(f"{name}.norm1", dim)
    for part in ("wq", "wk", "wv", "proj"):
        yield from _linear(f"{name}.attn.{part}", dim, dim)


def _projection(name: str, inputs: int, outputs: int) -> _Parameters:
    """LayerNorm, GELU, linear layer."""
    yield from _layer_norm(f"{name}.0", inputs)
    yield from _linear(f"{name}.2", inputs, outputs)


def _encoder(name: str, variant: Variant) -> _Parameters:
    """A multi-scale encoder. Paper, figure 3."""
    dims, others = variant.dims, variant.dims[::-1]
    for branch, (dim, depth) in enumerate(zip(dims, (1, variant.depth), strict=True)):
        for number in range(depth):
            yield from _block(f"{name}.blocks.{branch}.{number}", dim, variant.mlp_ratio)
    for branch, (dim, other) in enumerate(zip(dims, others, strict=True)):
        yield from _projection(f"{name}.projs.{branch}", dim, other)
    for branch, other in enumerate(others):
        yield from _fusion(f"{name}.fusion.{branch}", other)
    for branch, (dim, other) in enumerate(zip(dims, others, strict=True)):
        yield from _projection(f"{name}.revert_projs.{branch}", other, dim)


def _patch_embedding(name: str, patch: int, dim: int, dagger: bool) -> _Parameters:
    if not dagger:
        yield from _convolution(f"{name}.proj", 3, dim, patch)
        return
    yield from _convolution(f"{name}.proj.0", 3, dim // 4, 7)
    yield from _convolution(f"{name}.proj.2", dim // 4, dim // 2, 3)
    yield from _convolution(f"{name}.proj.4", dim // 2, dim, 3)


def _network(variant: Variant, classes: int, grids: tuple[int, int]) -> _Parameters:
    for branch, (grid, dim) in enumerate(zip(grids, variant.dims, strict=True)):
        yield f"pos_embed.{branch}", (1, 1 + grid * grid, dim)  # CLS, then patches
    for branch, dim in enumerate(variant.dims):
        yield f"cls_token.{branch}", (1, 1, dim)
    for branch, (patch, dim) in enumerate(zip(PATCH_SIZES, variant.dims, strict=True)):
        yield from _patch_embedding(f"patch_embed.{branch}", patch, dim, variant.dagger)
    for encoder in range(ENCODERS):
        yield from _encoder(f"blocks.{encoder}", variant)
    for branch, dim in enumerate(variant.dims):
        yield from _layer_norm(f"norm.{branch}", dim)
    for branch, dim in enumerate(variant.dims):
        yield from _linear(f"head.{branch}", dim, classes)


def parameter_shapes(
    variant: Variant, classes: int = IMAGENET_CLASSES, grids: tuple[int, int] | None = None
) -> dict[str, Shape]:
    """The shape of every parameter of `variant`, by IBM's name.

    `classes` is the number of outputs. `grids` are patches along one side (S, L) that the position embeddings are for;
    None is those of the published weights.
    """
    return dict(_network(variant, classes, grids or patch_grids(variant.resolution)))
