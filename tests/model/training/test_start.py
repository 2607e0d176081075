from pathlib import Path

import pytest
import torch

from model.checkpoint import load_network
from model.crossvit import CrossViT
from model.spec import VARIANTS
from model.training.recipe import Recipe
from model.training.result import write_weights
from model.training.start import regrid, starting_network

TINY = VARIANTS["crossvit_tiny"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "model.safetensors"
    write_weights(path, CrossViT(TINY, classes=3, resolution=64), half=False)
    return path


@pytest.mark.parametrize("side", [64, 96, 224])
def test_at_another_resolution_a_checkpoint_answers_as_before(weights: Path, side: int) -> None:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = load_network(weights, TINY)
    after = load_network(weights, TINY)
    regrid(after, side)
    assert torch.allclose(after(images), before(images), atol=2e-6)
    assert isinstance(after.pos_embed[1], torch.nn.Parameter)


def test_the_head_stays_unless_the_classes_are_others(weights: Path) -> None:
    recipe = Recipe(variant=TINY.name, side=64)
    old = load_network(weights, TINY).head[0].weight
    assert torch.equal(starting_network(recipe, 3, weights).head[0].weight, old)
    assert not torch.equal(starting_network(recipe, 3, weights, keep_head=False).head[0].weight, old)
    other = starting_network(recipe, 7, weights)
    assert other.head[1].weight.shape[0] == other.classes == 7
    assert torch.equal(other.norm[0].weight, load_network(weights, TINY).norm[0].weight)


def test_a_new_network_follows_from_the_seed() -> None:
    one, same, other = (starting_network(Recipe(variant=TINY.name, side=64, seed=seed), 3) for seed in (1, 1, 2))
    assert torch.equal(one.head[0].weight, same.head[0].weight)
    assert not torch.equal(one.head[0].weight, other.head[0].weight)
    assert one.training


def test_stochastic_depth_rises_over_the_blocks_of_l() -> None:
    network = starting_network(Recipe(variant=TINY.name, side=64, drop_path=0.22), 3)
    rates = [[block.drop_path for block in encoder.blocks[1]] for encoder in network.blocks]
    assert [rate for encoder in rates for rate in encoder] == pytest.approx([0.02 * n for n in range(12)], abs=1e-6)
    for own, encoder in zip(rates, network.blocks, strict=True):
        assert encoder.blocks[0][0].drop_path == own[0]
        assert [fusion.drop_path for fusion in encoder.fusion] == [own[-1]] * 2


def test_half_precision_halves_the_file_and_hardly_moves_the_answers(weights: Path, tmp_path: Path) -> None:
    network = load_network(weights, TINY)
    half = tmp_path / "half.safetensors"
    write_weights(half, network, half=True)
    assert half.stat().st_size < 0.51 * weights.stat().st_size
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(load_network(half, TINY)(images), network(images), atol=1e-3)
