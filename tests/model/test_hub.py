"""The hub is a stand-in on loopback; its client is the real one."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants as hub_settings

from model import hub as hub_module
from model.config_beside import config_beside
from model.hub import repository_weights
from model.hub_errors import HubUnavailable
from model.hub_repository import HubRepository
from model.parameter_shapes import parameter_shapes
from model.spec import VARIANTS
from model.weights import Weights, WeightsUnavailable, find_weights, located_weights, variant_of
from tests.support import reference_network
from tests.support.hub_stand_in import COMMIT, StandInHub, StandInRepository, running_hub, use_hub
from tests.support.servers import free_port

TINY = VARIANTS["crossvit_tiny"]
CHECKPOINT = b"weights" * 30_000
CONFIG = json.dumps({"architecture": "crossvit_tiny_240", "label_names": ["cat", "dog"]}).encode()
REPOSITORY = "me/pets"
TOKEN = "hf_secret"  # noqa: S105


@pytest.fixture(name="hub")
def start_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with running_hub() as hub:
        use_hub(hub.url, tmp_path, monkeypatch)
        yield hub


@pytest.fixture
def pets(hub: StandInHub) -> StandInRepository:
    return hub.add(REPOSITORY, {"model.safetensors": CHECKPOINT, "config.json": CONFIG, "README.md": b"# Pets"})


def located(location: str = f"hf:{REPOSITORY}") -> tuple[Weights, list[str]]:
    said: list[str] = []
    return located_weights(location, said.append), said


@pytest.mark.usefixtures("pets")
def test_a_repository_gives_its_checkpoint_and_what_belongs_to_it() -> None:
    weights, said = located()
    assert weights.path is not None
    assert weights.path.read_bytes() == CHECKPOINT
    assert weights.source == f"Hugging Face hub, {REPOSITORY} at {COMMIT}"
    assert not weights.is_official
    assert config_beside(weights.path, TINY) == json.loads(CONFIG)
    assert {path.name for path in weights.path.parent.iterdir()} == {"model.safetensors", "config.json"}
    assert said == [f"fetching model.safetensors of {REPOSITORY}, 0 MB"]


def test_our_own_format_brings_its_labels(hub: StandInHub) -> None:
    hub.add(REPOSITORY, {"mine.safetensors": CHECKPOINT, "mine.labels.json": b"[]", "other.labels.json": b"[]"})
    weights, _ = located()
    assert weights.labels is not None
    assert weights.labels.name == "mine.labels.json"


def test_an_hf_repository_is_a_choice_of_weights_of_every_command(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(REPOSITORY, {"model.safetensors": reference_network.checkpoint(tmp_path, TINY, classes=2)})
    weights = find_weights(f"hf:{REPOSITORY}", VARIANTS["crossvit_9"], print)
    assert weights.path is not None
    assert variant_of(weights.path) == TINY


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["pytorch_model.bin", "model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "optimizer.pt"], "pytorch_model.bin"),
        (["crossvit_best.pth", "README.md"], "crossvit_best.pth"),
    ],
)
def test_the_checkpoint_is_what_hugging_faces_libraries_name_so_or_the_only_one(
    hub: StandInHub, names: list[str], taken: str
) -> None:
    hub.add(REPOSITORY, dict.fromkeys(names, CHECKPOINT))
    weights, _ = located()
    assert weights.path is not None
    assert weights.path.name == taken


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["b.pth", "a.pth"],
            r"holds several checkpoints \(a\.pth, b\.pth\) and no model\.safetensors: download the one",
        ),
        (["README.md"], "holds no checkpoint"),
    ],
)
def test_a_repository_without_one_checkpoint_is_refused(hub: StandInHub, names: list[str], message: str) -> None:
    hub.add(REPOSITORY, dict.fromkeys(names, CHECKPOINT))
    with pytest.raises(WeightsUnavailable, match=f"me/pets {message}"):
        located()


@pytest.mark.parametrize("location", ["hf:pets", "hf:", "hf:a/b/c", "hf:me/pets@", "hf:me/pets@a b", "hf:me/pets?x"])
def test_what_names_no_repository_is_refused(location: str) -> None:
    with pytest.raises(
        WeightsUnavailable, match=r"names no repository of the hub: write hf:OWNER/REPOSITORY\[@REVISION\]"
    ):
        located(location)


def test_revisions_are_branches_tags_and_commits(pets: StandInRepository) -> None:
    pets.revisions = ("main", "v1.0", "refs/pr/3")
    for revision in ("v1.0", "refs/pr/3", COMMIT):
        weights, _ = located(f"hf:{REPOSITORY}@{revision}")
        assert weights.source.endswith(COMMIT)
    with pytest.raises(WeightsUnavailable, match=r"me/pets at v2 is not available.*no such revision\. Give a branch"):
        located(f"hf:{REPOSITORY}@v2")


def test_a_branch_is_asked_for_each_time_and_a_commit_once(hub: StandInHub, pets: StandInRepository) -> None:
    located()
    pets.commit, pets.files["model.safetensors"] = "f" * 40, CHECKPOINT + b"!"
    weights, _ = located()
    assert weights.source.endswith("f" * 40)
    hub.asked.clear()
    located(f"hf:{REPOSITORY}@{COMMIT}")
    assert hub.asked == []


@pytest.mark.parametrize("status", [0, 500, 503])
def test_without_the_hub_what_is_cached_of_a_branch_is_taken_with_a_note(
    hub: StandInHub, pets: StandInRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    first, _ = located()
    if status:
        hub.status = status
    else:
        use_hub(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)
    again, said = located()
    assert again == first
    (note,) = said
    assert note.startswith("note: me/pets is not available from the Hugging Face hub: http://127.0.0.1:")
    assert f"answers {status}" in note if status else "cannot be reached" in note
    assert note.endswith(f"Taking what is cached of it, {pets.commit}.")


@pytest.mark.usefixtures("pets")
def test_offline_takes_the_cache_or_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    located()
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in located()[1][0]
    with pytest.raises(WeightsUnavailable, match=r"HF_HUB_OFFLINE is set, and .* does not have it\. Unset it, or give"):
        located("hf:me/other")
    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE is set"):
        find_weights("hub", TINY, print)


@pytest.mark.usefixtures("pets")
def test_a_branch_that_has_not_changed_takes_one_request(hub: StandInHub) -> None:
    first, _ = located()
    hub.asked.clear()
    assert located() == (first, [])
    assert hub.asked == [("GET", "/api/models/me/pets")]


def test_what_another_program_cached_of_a_commit_is_completed(hub: StandInHub) -> None:
    hub.add(TINY.hub_repo, {"model.safetensors": CHECKPOINT, "config.json": CONFIG})
    official = find_weights("hub", TINY, print)  # the weights alone
    assert official.path is not None
    assert config_beside(official.path, TINY) is None
    weights, _ = located(f"hf:{TINY.hub_repo}@{COMMIT}")
    assert weights.path == official.path
    assert config_beside(official.path, TINY) == json.loads(CONFIG)


def private(repository: StandInRepository) -> None:
    repository.token = TOKEN


def gated(repository: StandInRepository) -> None:
    repository.is_gated = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (private, r"no such repository, or it is private\. Check the name; .*`hf auth login` or set HF_TOKEN"),
        (gated, r"it is gated\. Accept its terms at http://127\.0\.0\.1:\d+/me/pets, then log in"),
    ],
)
def test_a_repository_that_is_not_for_everybody_is_refused_with_what_to_do_though_it_is_cached(
    pets: StandInRepository, change: Callable[[StandInRepository], None], message: str
) -> None:
    located()
    change(pets)
    with pytest.raises(WeightsUnavailable, match=message):
        located()


def test_the_token_of_the_environment_opens_a_private_repository(
    hub: StandInHub, pets: StandInRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    private(pets)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert located()[0].path is not None
    assert hub.tokens == {TOKEN}


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_named(hub: StandInHub, status: int) -> None:
    hub.status = status
    with pytest.raises(WeightsUnavailable, match=r"`hf auth login` or set HF_TOKEN"):
        located()


@pytest.mark.usefixtures("pets")
def test_a_download_that_breaks_off_is_no_file_and_goes_on_later(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its tries
    hub.body_limit = 1000
    with pytest.raises(WeightsUnavailable, match=r"broke off the download .*Try again"):
        located()
    assert list((tmp_path / "hub").rglob("model.safetensors")) == []
    hub.body_limit = None
    weights, _ = located()
    assert weights.path is not None
    assert weights.path.read_bytes() == CHECKPOINT


def test_a_server_that_is_no_hub_is_called_so(hub: StandInHub) -> None:
    hub.status = 200
    with pytest.raises(WeightsUnavailable, match="does not answer as a hub does"):
        located()


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"there is no room in .*hub\. Make some, or set HF_HOME"),
        (PermissionError(errno.EACCES, "Permission denied"), r"hub cannot be written\. Set HF_HOME"),
    ],
)
def test_a_cache_that_takes_nothing_is_named(monkeypatch: pytest.MonkeyPatch, error: OSError, message: str) -> None:
    def fails(*_: object, **__: object) -> None:  # in place of a disk that is full, which tests cannot make here
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(HubUnavailable, match=message):
        repository_weights(HubRepository(REPOSITORY), print)


def test_a_hub_that_hangs_is_given_up() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError):
        hub_module._within(0.2, lambda: release.wait(60))
    assert not release.is_set()
    release.set()


SCRIPT = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript", "nncf"):
            raise ImportError(f"{name} is imported")
sys.meta_path.insert(0, NoTorch())
from model.checkpoint import read_parameters
from model.spec import VARIANTS
from model.weights import located_weights, find_weights, variant_of
for location in sys.argv[1:]:
    found = located_weights(location, print)
    variant = variant_of(found.path)
    print(variant.name, len(read_parameters(found.path, variant, print)))
print(find_weights("pretrained", VARIANTS["crossvit_9_dagger"], print).source)
"""


def test_weights_are_found_and_read_where_pytorch_cannot_be_imported(hub: StandInHub, tmp_path: Path) -> None:
    tensors = reference_network.tensors(TINY, classes=3)
    torch.save({"model": {name: tensor.bfloat16() for name, tensor in tensors.items()}}, tmp_path / "tiny.pth")
    hub.add(REPOSITORY, {"model.safetensors": reference_network.checkpoint(tmp_path, VARIANTS["crossvit_9"])})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"hf:{REPOSITORY}", str(tmp_path / "tiny.pth")],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"fetching model.safetensors of {REPOSITORY}, 34 MB"
    assert lines[1:3] == [
        f"crossvit_9 {len(parameter_shapes(VARIANTS['crossvit_9']))}",
        f"crossvit_tiny {len(tensors)}",
    ]
    assert lines[-1].startswith("shipped with the project")
