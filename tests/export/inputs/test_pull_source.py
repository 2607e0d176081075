import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.inputs.pull_source import PullSource, pull_source
from model.checkpoint import BadCheckpoint
from model.spec import VARIANTS
from model.weights import PRETRAINED, Weights, WeightsUnavailable
from tests.support.hub_stand_in import StandInHub, running_hub, use_hub
from tests.support.reference_network import TINY


@pytest.fixture(name="hub")
def start_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with running_hub() as hub:
        use_hub(hub.url, tmp_path, monkeypatch)
        yield hub


@pytest.mark.parametrize("name", ["crossvit_18_dagger", "crossvit_18_dagger_240.in1k", "CrossViT-18†"])
def test_a_variants_name_means_its_pretrained_weights(name: str) -> None:
    assert pull_source(name, None, print) == PullSource(VARIANTS["crossvit_18_dagger"], PRETRAINED)


def test_a_variants_name_is_one_even_where_a_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crossvit_9").mkdir()
    assert pull_source("crossvit_9", None, print).weights == PRETRAINED
    with pytest.raises(WeightsUnavailable, match="crossvit_9"):
        pull_source("./crossvit_9", None, print)  # the folder, which is empty


@pytest.mark.parametrize("place", ["pets.safetensors", "runs/pets/model.safetensors"])
def test_a_checkpoint_says_which_network_it_is(tiny_weights: Path, tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_weights, path)
    found = pull_source(str(path), None, print)
    assert found.variant == TINY
    assert isinstance(found.weights, Weights)
    assert found.weights.path == path
    if path.name == "model.safetensors":
        assert pull_source(str(path.parent), None, print) == found  # the trainer's folder


def test_a_repository_of_the_hub_says_which_network_it_is(hub: StandInHub, tiny_weights: Path) -> None:
    config = json.dumps({"architecture": "crossvit_tiny_240"}).encode()
    hub.add("me/pets", {"model.safetensors": tiny_weights, "config.json": config})
    found = pull_source("hf:me/pets@main", None, print)
    assert found.variant == TINY
    assert isinstance(found.weights, Weights)
    assert "me/pets" in found.weights.source


def test_what_is_neither_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"crossvit_9_dager is no file and no folder, .*nearest: crossvit_9_d"):
        pull_source("crossvit_9_dager", None, print)
    with pytest.raises(WeightsUnavailable, match="--variant is for a checkpoint"):
        pull_source("crossvit_9", "crossvit_15", print)
    (tmp_path / "notes.pth").write_text("no weights")
    with pytest.raises(BadCheckpoint):
        pull_source(str(tmp_path / "notes.pth"), None, print)
