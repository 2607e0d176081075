import hashlib
import json
import os
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from model import weights
from model.checkpoint import BadCheckpoint
from model.parameter_shapes import parameter_shapes
from model.spec import UNTRAINED, VARIANTS, patch_grids
from model.weights import Weights, WeightsUnavailable, find_weights, variant_of
from tests.support.hub_stand_in import COMMIT, StandInHub, running_hub, use_hub
from tests.support.servers import free_port

TINY = VARIANTS["crossvit_tiny"]
CHECKPOINT = b"the weights of crossvit_tiny" * 10_000
SHA256 = hashlib.sha256(CHECKPOINT).hexdigest()


@dataclass
class Found:
    """What `find` gave, what it said, and how long it took."""

    weights: Weights
    said: list[str]
    seconds: float


@pytest.fixture(name="hub")
def start_hub() -> Iterator[StandInHub]:
    with running_hub() as hub:
        hub.add(TINY.hub_repo, {"model.safetensors": CHECKPOINT})
        yield hub


@pytest.fixture
def find_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Found]:
    """`find` with a hub, a cache and a folder of shipped weights of its own."""
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", tmp_path / "shipped")

    def run(choice: str, endpoint: str) -> Found:
        use_hub(endpoint, tmp_path, monkeypatch)
        said: list[str] = []
        started = time.monotonic()
        found = find_weights(choice, TINY, said.append)
        return Found(found, said, time.monotonic() - started)

    return run


FindWith = Callable[[str, str], Found]


SCRIPT = """
from model.spec import VARIANTS
from model.weights import find_weights
found = find_weights("auto", VARIANTS["crossvit_tiny"], print)
print(found.id, found.source, sep=", ")
"""


def test_auto_downloads_from_the_hub_that_the_environment_names_with_a_progress_bar(
    hub: StandInHub, tmp_path: Path
) -> None:
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    env.pop("HF_HUB_OFFLINE", None)
    ours, theirs = os.openpty()  # the progress bar shows on a terminal only
    termios.tcsetwinsize(theirs, (24, 120))
    try:
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False)
        os.write(theirs, b"\n")
        screen = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, screen
    source = f"Hugging Face hub, timm/crossvit_tiny_240.in1k at {COMMIT}"
    assert done.stdout.decode() == f"sha256:{SHA256}, {source}\n"
    assert "model.safetensors: 100%" in screen


@pytest.mark.parametrize("choice", ["auto", "hub"])
def test_a_cached_download_needs_no_hub(hub: StandInHub, find_with: FindWith, choice: str) -> None:
    find_with("hub", hub.url)
    again = find_with(choice, f"http://127.0.0.1:{free_port()}")
    assert again.weights.id == f"sha256:{SHA256}"
    assert len(hub.bodies_sent()) == 1
    assert again.said == []
    assert again.weights.is_official


def test_a_download_that_is_not_what_the_hub_named_is_refused(hub: StandInHub, find_with: FindWith) -> None:
    hub.corrupted = True
    with pytest.raises(BadCheckpoint, match="its sha256 is not its name"):
        find_with("auto", hub.url)


@pytest.fixture
def dead_hub() -> str:
    """Where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def silent_hub() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["dead_hub", "silent_hub"])
def test_auto_without_a_hub_ends_untrained_within_five_seconds(
    kind: str, request: pytest.FixtureRequest, find_with: FindWith
) -> None:
    found = find_with("auto", request.getfixturevalue(kind))
    assert found.weights.id == UNTRAINED
    assert found.seconds < 5
    assert "not available from the Hugging Face hub" in found.said[0]


def test_auto_without_a_hub_prefers_shipped_weights(dead_hub: str, find_with: FindWith, tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "crossvit_tiny.safetensors").write_bytes(CHECKPOINT)
    found = find_with("auto", dead_hub)
    assert (found.weights.id, found.weights.source) == (f"sha256:{SHA256}", weights.SHIPPED_SOURCE)


def test_shipped_weights_come_with_their_labels_and_a_caution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", tmp_path)
    (tmp_path / "crossvit_tiny.safetensors").write_bytes(CHECKPOINT)
    found = weights.find_weights("shipped", VARIANTS["crossvit_tiny"], print)
    assert found.labels is None
    assert "200 of ImageNet's 1000 classes" in str(found.caution)
    (tmp_path / "crossvit_tiny.labels.json").write_text("[]")
    assert found.labels == tmp_path / "crossvit_tiny.labels.json"
    with pytest.raises(
        weights.WeightsUnavailable, match="no weights of crossvit_18 ship with the project, but of cross"
    ):
        weights.find_weights("shipped", VARIANTS["crossvit_18"], print)


def test_pretrained_without_a_hub_is_the_networks_shipped_weights_or_an_error(
    dead_hub: str, find_with: FindWith, tmp_path: Path
) -> None:
    with pytest.raises(WeightsUnavailable, match=r"cannot be reached.*HF_ENDPOINT.*; and no weights of"):
        find_with("pretrained", dead_hub)
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "crossvit_tiny.safetensors").write_bytes(CHECKPOINT)
    found = find_with("pretrained", dead_hub)
    assert found.weights.source == weights.SHIPPED_SOURCE
    assert "Taking the weights that ship" in found.said[0]


def test_hub_without_a_hub_is_an_error(dead_hub: str, find_with: FindWith) -> None:
    with pytest.raises(WeightsUnavailable, match="give the path of a checkpoint instead"):
        find_with("hub", dead_hub)


def test_a_hub_without_the_repository_is_an_error(hub: StandInHub, find_with: FindWith) -> None:
    hub.repositories.clear()
    with pytest.raises(WeightsUnavailable, match="there is no such repository, or it is private"):
        find_with("hub", hub.url)


def test_a_path_is_that_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(CHECKPOINT)
    assert find_weights(str(path), TINY, print) == Weights(f"sha256:{SHA256}", "mine.pth", path)
    with pytest.raises(WeightsUnavailable, match=r"no weights at .*other.pth; give a file, or one of auto, pre"):
        find_weights(str(tmp_path / "other.pth"), TINY, print)


@pytest.mark.parametrize(
    ("architecture", "resolution", "expected"),
    [
        (None, 224, "crossvit_15_dagger"),
        (None, 384, "crossvit_15_dagger_384"),
        ("crossvit_15_dagger_240", 384, "crossvit_15_dagger"),
        ("crossvit_9_240", 224, "crossvit_15_dagger"),
    ],
)
def test_the_variant_is_that_of_the_tensors_and_of_those_that_fit_the_one_that_a_config_names(
    tmp_path: Path, architecture: str | None, resolution: int, expected: str
) -> None:
    shapes = parameter_shapes(VARIANTS["crossvit_15_dagger"], 2, patch_grids(resolution))
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, tmp_path / "x.pth")
    if architecture is not None:
        (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    assert variant_of(tmp_path / "x.pth").name == expected


@pytest.mark.parametrize("names", [["model.safetensors", "optimizer.pt", "training_args.bin"], ["last.ckpt", "a.json"]])
def test_a_folder_of_a_trainer_stands_for_the_weights_in_it(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    assert find_weights(str(tmp_path), TINY, print).path == tmp_path / names[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([".metadata", "__0_0.distcp"], "distributed checkpoint .*dcp_to_torch"),
        (["zero_to_fp32.py", "latest"], "DeepSpeed"),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "m.safetensors"], "several files"),
        (["saved_model.pb"], "TensorFlow"),
        (["adapter_config.json"], "LoRA"),
        (["a.pt", "b.pt"], r"holds a\.pt, b\.pt: give one"),
        ([], "holds nothing"),
    ],
)
def test_a_folder_without_one_checkpoint_is_called_what_it_is(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(WeightsUnavailable, match=message):
        find_weights(str(tmp_path), TINY, print)


def test_a_url_is_refused_as_a_path() -> None:
    with pytest.raises(WeightsUnavailable, match=r"is an address: download it .*, or give hf:OWNER/REPOSITORY"):
        find_weights("https://example.org/model.safetensors", TINY, print)


def test_a_file_larger_than_any_checkpoint_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with path.open("wb") as file:
        file.truncate(50_000_000_000)  # takes no room on the disk
    with pytest.raises(WeightsUnavailable, match=r"x\.pth has 50 GB.*at most 16 GB.*only the network"):
        find_weights(str(path), TINY, print)
