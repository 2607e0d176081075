from copy import deepcopy

import pytest
import torch
from torch import nn

from model.crossvit import CrossViT
from model.spec import VARIANTS
from model.training.optimizers import Optimizers
from model.training.recipe import Recipe


def network() -> CrossViT:
    torch.manual_seed(0)
    return CrossViT(VARIANTS["crossvit_tiny"], classes=3, resolution=64).train()


def recipe(optimizer: str, **changes: float) -> Recipe:
    return Recipe(variant="crossvit_tiny", optimizer=optimizer, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_without_gradients_only_matrices_and_filters_decay(optimizer: str) -> None:
    trained, before = network(), network().state_dict()
    for parameter in trained.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Optimizers(trained, recipe(optimizer, weight_decay=0.5)).step(0.1, clip=0)
    for name, after in trained.state_dict().items():
        spared = after.ndim == 1 or name.startswith(("pos_embed", "cls_token"))
        assert torch.equal(after, before[name]) == spared, name


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_resumed_optimizer_steps_like_an_uninterrupted_one(optimizer: str) -> None:
    left, taken_up = network(), network()
    first = Optimizers(left, recipe(optimizer))
    for _ in range(2):
        _gradients(left)
        first.step(0.01, clip=1)
    taken_up.load_state_dict(left.state_dict())
    second = Optimizers(taken_up, recipe(optimizer))
    second.load_state_dict(deepcopy(first.state_dict()))
    for trained, optimizers in ((left, first), (taken_up, second)):
        _gradients(trained)
        optimizers.step(0.02, clip=1)
    for one, other in zip(left.parameters(), taken_up.parameters(), strict=True):
        assert torch.equal(one, other)


def test_muon_takes_the_matrices_but_for_the_heads() -> None:
    muons = Optimizers(network(), recipe("muon")).state_dict()[1]["param_groups"][0]["params"]
    matrices = [name for name, p in network().named_parameters() if p.ndim == 2 and not name.startswith("head")]
    assert len(muons) == len(matrices)


def test_gradients_are_clipped_and_their_norm_is_returned() -> None:
    trained = nn.Linear(2, 2, bias=False)
    before = trained.weight.detach().clone()
    trained.weight.grad = torch.full((2, 2), 5.0)
    length = Optimizers(trained, recipe("sgd", weight_decay=0)).step(1.0, clip=1.0)
    assert length.item() == pytest.approx(10)
    assert (trained.weight.detach() - before).norm().item() == pytest.approx(1, rel=1e-4)
    assert trained.weight.grad is None


def _gradients(trained: CrossViT) -> None:
    torch.manual_seed(1)
    trained(torch.randn(2, 3, 64, 64)).square().sum().backward()
