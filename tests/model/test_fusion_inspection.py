import pytest
import torch
from torch import Tensor

from export.measurement.autograd_contributions import autograd_contributions
from export.ship_templates import rule_made_network
from model.crossvit import LARGE, SMALL, CrossAttention, CrossViT
from model.fusion_inspection import inspect, last_fusion
from model.spec import VARIANTS
from tests.support.reference_network import TINY

QUICK = (TINY.name, "crossvit_9_dagger")
EVERY_VARIANT = [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in VARIANTS]
CLASSES = torch.tensor([[0, 6], [3, 3]])


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> CrossViT:
    return rule_made_network(TINY, 224)


@pytest.mark.parametrize("name", EVERY_VARIANT)
@pytest.mark.parametrize("trained", [224, 384])
def test_contributions_in_closed_form_are_those_of_autograd(name: str, trained: int) -> None:
    network = rule_made_network(VARIANTS[name], trained)  # with 7 classes
    pixels = images(trained)
    with torch.no_grad():
        *_, small, large = inspect(network, pixels, CLASSES)
    for found, expected in zip((small, large), autograd_contributions(network, pixels, CLASSES), strict=True):
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@torch.no_grad()
def test_logits_are_those_of_the_network_and_embeddings_are_what_the_heads_take(network: CrossViT) -> None:
    pixels = images(224)
    found = inspect(network, pixels, CLASSES)
    torch.testing.assert_close(found.logits, network(pixels), atol=0, rtol=0)
    torch.testing.assert_close(found[1:3], network.forward_branches(pixels), atol=0, rtol=0)
    assert (found.embedding_small.shape, found.embedding_large.shape) == ((2, 96), (2, 192))
    torch.testing.assert_close(network.head[1](found.embedding_large), found.logits_large, atol=0, rtol=0)


@torch.no_grad()
def test_attention_and_contributions_lie_on_the_grids_of_both_branches(network: CrossViT) -> None:
    found = inspect(network, images(240), CLASSES)
    assert (found.attention_small.shape, found.attention_large.shape) == ((2, 20, 20), (2, 14, 14))
    assert (found.contributions_small.shape, found.contributions_large.shape) == ((2, 2, 20, 20), (2, 2, 14, 14))
    for attention in (found.attention_small, found.attention_large):
        assert (attention > 0).all()
        assert (attention.sum(dim=(1, 2)) < 1).all()  # CLS has the rest


@torch.no_grad()
def test_the_sum_of_the_grids_is_what_a_small_change_of_all_patches_makes_of_the_logit(network: CrossViT) -> None:
    """A finite difference: what patches give to both CLS in the last fusion is made a thousandth larger."""
    pixels, step = images(224), 1e-3
    network = network.double()
    try:
        found = inspect(network, pixels.double(), CLASSES)
        scaled = logits_with_patches(network, pixels.double(), 1 + step)
        change = (scaled - found.logits).gather(1, CLASSES) / step
        first_order = found.contributions_small.sum(dim=(2, 3)) + found.contributions_large.sum(dim=(2, 3))
        torch.testing.assert_close(first_order, change, atol=0, rtol=1e-2)
    finally:
        network.float()


def logits_with_patches(network: CrossViT, pixels: Tensor, factor: float) -> Tensor:
    """The logits if the last fusion took `factor` times what it takes of patches."""

    def fused(attention: CrossAttention, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        (x,) = inputs
        weights = attention.weights(x)
        weights[..., 1:] *= factor
        per_head = attention.wv.weight.unflatten(0, (attention.heads, -1)).transpose(1, 2)
        value = ((weights @ x).transpose(0, 1) @ per_head).transpose(0, 1).flatten(1)
        replaced: Tensor = attention.proj(value + attention.wv.bias)
        return replaced.unsqueeze(1)

    hooks = [last_fusion(network, branch).block.attn.register_forward_hook(fused) for branch in (SMALL, LARGE)]
    logits: Tensor = network(pixels)
    for hook in hooks:
        hook.remove()
    return logits
