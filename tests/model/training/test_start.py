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
    old = load_network(weights, TINY).state_dict()
    kept, fresh, other = (
        starting_network(recipe, classes, weights, keep_head=keep).state_dict()
        for classes, keep in ((3, True), (3, False), (7, True))
    )
    assert all(torch.equal(kept[name], old[name]) for name in old)
    assert [name for name in old if not torch.equal(fresh[name], old[name])] == ["head.0.weight", "head.1.weight"]
    assert other["head.1.weight"].shape[0] == 7
    assert torch.equal(other["norm.0.weight"], old["norm.0.weight"])


def test_a_new_network_follows_from_the_seed() -> None:
    one, same, other = (starting_network(Recipe(variant=TINY.name, side=64, seed=seed), 3) for seed in (1, 1, 2))
    first, again, second = (network.state_dict()["head.0.weight"] for network in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert one.training


def test_stochastic_depth_rises_over_the_blocks_of_l() -> None:
    network = starting_network(Recipe(variant=TINY.name, side=64, drop_path=0.22), 3)
    rates = {name: module.drop_path for name, module in network.named_modules() if hasattr(module, "drop_path")}
    large = [rates[f"blocks.{encoder}.blocks.1.{block}"] for encoder in range(3) for block in range(4)]
    assert large == pytest.approx([0.02 * number for number in range(12)], abs=1e-6)
    for encoder in range(3):
        own = large[4 * encoder : 4 * encoder + 4]
        assert rates[f"blocks.{encoder}.blocks.0.0"] == own[0]
        assert rates[f"blocks.{encoder}.fusion.0"] == rates[f"blocks.{encoder}.fusion.1"] == own[-1]


def test_half_precision_halves_the_file_and_hardly_moves_the_answers(weights: Path, tmp_path: Path) -> None:
    network = load_network(weights, TINY)
    half = tmp_path / "half.safetensors"
    write_weights(half, network, half=True)
    assert half.stat().st_size < 0.51 * weights.stat().st_size
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(load_network(half, TINY)(images), network(images), atol=1e-3)
