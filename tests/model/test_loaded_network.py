from pathlib import Path

import torch

from model.loaded_network import load_network, network_with
from model.spec import UNTRAINED, VARIANTS
from model.weights import find_weights
from tests.support import reference_network

TINY = VARIANTS["crossvit_tiny"]


def test_a_network_has_the_values_of_its_checkpoint_and_is_for_evaluation(tmp_path: Path) -> None:
    network = load_network(reference_network.checkpoint(tmp_path, TINY, classes=5), TINY)
    expected = reference_network.tensors(TINY, classes=5)
    assert not network.training
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_checkpoint_brings_its_own_classes_and_position_grids(tmp_path: Path) -> None:
    torch.save(reference_network.tensors(TINY, classes=7, resolution=384), tmp_path / "x.pth")
    network = network_with(find_weights(str(tmp_path / "x.pth"), TINY, print), TINY)
    assert (network.classes, network.sides) == (7, (408, 384))


def test_untrained_weights_are_the_same_every_time() -> None:
    first, second = (network_with(find_weights(UNTRAINED, TINY, print), TINY).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
