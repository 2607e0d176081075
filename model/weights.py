"""Finds weights: a file, the local cache, the Hugging Face hub, those that ship, or random ones; imports no torch."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import BadCheckpoint, checkpoint_variants
from model.checkpoint_names import checkpoints_among
from model.config_beside import config_variant
from model.hub import official_weights, repository_weights
from model.hub_errors import HubUnavailable
from model.hub_repository import HUB_FORM, HUB_PREFIX, HubRepository
from model.labels import labels_beside
from model.spec import UNTRAINED, Variant
from model.stored.foreign_files import folder_kind

AUTO, PRETRAINED, HUB, SHIPPED = "auto", "pretrained", "hub", "shipped"
SHIPPED_FOLDER = Path(__file__).resolve().parent / "shipped"
SHIPPED_SOURCE = "shipped with the project, for trying it out: 200 of ImageNet's classes, often wrong"
SHIPPED_CAUTION = (
    "WEIGHTS FOR TRYING IT OUT, which ship with the project: 200 of ImageNet's 1000 classes, often wrong "
    "(model/shipped/README.md)"
)
MAX_WEIGHTS_BYTES = 16_000_000_000  # the largest network with its optimizer has under 1 GB


class WeightsUnavailable(Exception):
    """The requested weights are not available; the message says why, and what to give instead."""


@dataclass(frozen=True)
class Weights:
    """Weights, and where they come from.

    Attributes:
        id: the identifier that responses show: "sha256:…" of the file, or "untrained".
        source: a description of the origin.
        path: the file; None for untrained weights.
        caution: a warning for everybody who serves them, if there is one.
        is_official: whether they are the published ones, by the network's name: these keep the paper's preprocessing,
            whatever a config.json beside them says.
    """

    id: str
    source: str
    path: Path | None
    caution: str | None = None
    is_official: bool = False

    @classmethod
    def of(cls, path: Path, source: str, caution: str | None = None, *, is_official: bool = False) -> "Weights":
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(f"sha256:{digest}", source, path, caution, is_official)

    @property
    def labels(self) -> Path | None:
        """The file that names the classes, if it is beside the checkpoint."""
        return labels_beside(self.path) if self.path is not None else None


def find_weights(choice: str, variant: Variant, say: Callable[[str], None]) -> Weights:
    """The weights that `choice` names, for `variant`.

    "hub" are the published ones: the hub's files cached on this machine, else the hub. "shipped" are those that ship
    with the project. "pretrained" takes the first of these that is available, and "auto" untrained ones after them;
    `say` is told why better ones were passed over. Others are what located_weights takes. Raises WeightsUnavailable.
    """
    if choice == AUTO:
        try:
            return find_weights(PRETRAINED, variant, say)
        except WeightsUnavailable as err:
            say(f"note: {err}. Going on with untrained weights.")
            return find_weights(UNTRAINED, variant, say)
    if choice == PRETRAINED:
        return _pretrained(variant, say)
    if choice == HUB:
        return _official(variant, say)
    if choice == SHIPPED:
        return _shipped(variant)
    if choice == UNTRAINED:
        return Weights(UNTRAINED, "random initial weights", None)
    return located_weights(choice, say)


def located_weights(location: str, say: Callable[[str], None]) -> Weights:
    """The weights at a path, of a file or a trainer's folder, or in a repository, `hf:owner/name[@revision]`.

    Raises WeightsUnavailable if there are none.
    """
    if location.startswith(HUB_PREFIX):
        try:
            repository = HubRepository.named(location)
            return _from_hub(repository_weights(repository, say), repository.id)
        except (ValueError, HubUnavailable) as err:
            raise WeightsUnavailable(str(err)) from err
    if "://" in location:
        raise WeightsUnavailable(
            f"{location} is an address: download it and give the path of the file, or give {HUB_FORM}"
        )
    return _file(Path(location).expanduser())


def variant_of(weights: Path) -> Variant:
    """The network that the file holds, told by the tensors in it; raises BadCheckpoint.

    Of networks that differ in the resolution alone it is the one that a config.json beside it names, else that of the
    position embeddings.
    """
    fitting, named = checkpoint_variants(weights), config_variant(weights)
    return named if named in fitting else fitting[0]


def _pretrained(variant: Variant, say: Callable[[str], None]) -> Weights:
    try:
        return _official(variant, say)
    except WeightsUnavailable as err:
        try:
            shipped = _shipped(variant)
        except WeightsUnavailable as none:
            raise WeightsUnavailable(f"{err}; and {none}") from err
        say(f"note: {err}. Taking the weights that ship with the project.")
        return shipped


def _file(path: Path) -> Weights:
    if path.is_dir():
        path = _within_folder(path)
    if not path.is_file():
        what = f"{path} is not a regular file" if path.exists() else f"no weights at {path}"
        raise WeightsUnavailable(f"{what}; give a file, or one of {AUTO}, {PRETRAINED}, {HUB}, {SHIPPED}, {UNTRAINED}")
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsUnavailable(
            f"{path} has {size / 1e9:.0f} GB, more than any checkpoint of a CrossViT (at most "
            f"{MAX_WEIGHTS_BYTES / 1e9:.0f} GB are read): save only the network's state_dict"
        )
    shipped = path.resolve().parent == SHIPPED_FOLDER
    return Weights.of(path, SHIPPED_SOURCE if shipped else path.name, SHIPPED_CAUTION if shipped else None)


def _within_folder(folder: Path) -> Path:
    """The checkpoint in a folder that a trainer wrote."""
    found = checkpoints_among(path.name for path in folder.iterdir() if path.is_file())
    if len(found) != 1:
        raise WeightsUnavailable(f"{folder} {folder_kind(folder)}")
    return folder / found[0]


def _shipped(variant: Variant) -> Weights:
    path = SHIPPED_FOLDER / f"{variant.name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in SHIPPED_FOLDER.glob("*.safetensors")))
        raise WeightsUnavailable(f"no weights of {variant.name} ship with the project, but of {there or 'no network'}")
    return Weights.of(path, SHIPPED_SOURCE, SHIPPED_CAUTION)


def _official(variant: Variant, say: Callable[[str], None]) -> Weights:
    try:
        return _from_hub(official_weights(variant, say), variant.hub_repo, is_official=True)
    except HubUnavailable as err:
        raise WeightsUnavailable(str(err)) from err


def _from_hub(path: Path, repository: str, *, is_official: bool = False) -> Weights:
    weights = Weights.of(path, f"Hugging Face hub, {repository} at {path.parent.name}", is_official=is_official)
    named = path.resolve().name  # large files are stored under their sha256
    if re.fullmatch("[0-9a-f]{64}", named) and weights.id != f"sha256:{named}":
        raise BadCheckpoint(f"{path.resolve()} is damaged: its sha256 is not its name; delete it and try again")
    return weights
