from pathlib import Path

import pytest
import torch

from model.checkpoint import BadCheckpoint
from model.crossvit import CrossViT
from model.labels import labels_for, labels_of
from model.loaded_network import load_network
from model.spec import VARIANTS
from model.training.artifacts import has_classes, write_json_file, write_weights
from model.training.initial_network import HeadChoice, regrid, starting_network
from model.training.recipe import Recipe

TINY = VARIANTS["crossvit_tiny"]
NAMES = ["cat", "dog", "n01443537"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "model.safetensors"
    write_weights(path, CrossViT(TINY, classes=3, resolution=64), half=False)
    write_json_file(path.with_suffix(".labels.json"), labels_of(NAMES))
    return path


@pytest.mark.parametrize("side", [64, 96, 224])
def test_at_another_resolution_a_checkpoint_answers_as_before(weights: Path, side: int) -> None:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = load_network(weights, TINY)
    after = load_network(weights, TINY)
    regrid(after, side)
    assert torch.allclose(after(images), before(images), atol=2e-6)
    assert isinstance(after.pos_embed[1], torch.nn.Parameter)


@pytest.mark.parametrize(
    ("names", "head", "kept"),
    [
        (NAMES, "auto", True),
        (["cat", "dog", "fish"], "auto", False),
        (["cat", "dog", "fish"], "keep", True),
        (NAMES, "new", False),
        (["cat", "dog"], "auto", False),
    ],
)
def test_the_head_stays_if_its_classes_are_the_same(
    weights: Path, names: list[str], head: HeadChoice, kept: bool
) -> None:
    old = load_network(weights, TINY).state_dict()
    network, said = starting_network(Recipe(variant=TINY.name, resolution=64), labels_of(names), weights, head)
    new = network.state_dict()
    assert said == kept
    assert network.classes == len(names) == new["head.1.weight"].shape[0]
    assert (
        new["head.0.weight"].shape == old["head.0.weight"].shape
        and torch.equal(new["head.0.weight"], old["head.0.weight"])
    ) == kept
    assert all(torch.equal(new[name], old[name]) for name in old if not name.startswith("head."))


def test_a_head_of_unknown_classes_is_replaced_by_a_new_one(weights: Path) -> None:
    weights.with_suffix(".labels.json").unlink()
    assert not starting_network(Recipe(variant=TINY.name, resolution=64), labels_of(NAMES), weights)[1]


def test_a_head_of_other_classes_cannot_be_kept(weights: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"model.safetensors has 3 classes, the images 2: use --head new"):
        starting_network(Recipe(variant=TINY.name, resolution=64), labels_of(["cat", "dog"]), weights, "keep")


def test_imagenets_head_is_known_by_its_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "official.safetensors"
    wnids = [str(label["wnid"]) for label in labels_for(None, 1000)]
    assert has_classes(path, 1000, labels_of(wnids))
    assert not has_classes(path, 1000, labels_of(wnids[::-1]))
    assert not has_classes(path, 3, labels_of(NAMES))


def test_a_new_network_follows_from_the_seed() -> None:
    one, same, other = (
        starting_network(Recipe(variant=TINY.name, resolution=64, seed=seed), labels_of(NAMES))[0] for seed in (1, 1, 2)
    )
    first, again, second = (network.state_dict()["head.0.weight"] for network in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert one.training


def test_stochastic_depth_rises_over_the_blocks_of_l() -> None:
    network, _ = starting_network(Recipe(variant=TINY.name, resolution=64, drop_path=0.22), labels_of(NAMES))
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
