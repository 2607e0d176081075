"""Finds weights: a file, the local cache, the Hugging Face hub, those that ship, or random ones."""

import hashlib
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import huggingface_hub as hub

from model.checkpoint import BadCheckpoint
from model.labels import labels_beside
from model.spec import UNTRAINED, Variant
from model.stored.foreign_files import folder_kind

T = TypeVar("T")

HUB, SHIPPED = "hub", "shipped"
SHIPPED_FOLDER = Path(__file__).resolve().parent / "shipped"
SHIPPED_SOURCE = "shipped with the project, for trying it out: 200 of ImageNet's classes, often wrong"
SHIPPED_CAUTION = (
    "THE WEIGHTS THAT SHIP WITH THE PROJECT, for trying it out: they know 200 of ImageNet's 1000 classes, learnt from "
    "pictures of 64 x 64 pixels, and are often wrong (model/shipped/README.md). Give better ones with --weights"
)
HUB_FILE = "model.safetensors"
FOLDER_FILES = (HUB_FILE, "pytorch_model.bin")  # what transformers and accelerate call a network's weights
CHECKPOINT_SUFFIXES = frozenset((".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar"))
MAX_WEIGHTS_BYTES = 16_000_000_000  # the largest network with its optimizer has under 1 GB
HUB_TIMEOUT_SECONDS = 4.5


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
    """

    id: str
    source: str
    path: Path | None
    caution: str | None = None

    @classmethod
    def of(cls, path: Path, source: str, caution: str | None = None) -> "Weights":
        with path.open("rb") as file:
            return cls(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", source, path, caution)

    @property
    def labels(self) -> Path | None:
        """The file that names the classes, if it is beside the checkpoint."""
        return labels_beside(self.path) if self.path is not None else None


def find_weights(choice: str, variant: Variant, say: Callable[[str], None]) -> Weights:
    """The weights that `choice` names: "auto", "hub", "shipped", "untrained", or the path of a checkpoint.

    "auto" takes the first that is available: the hub's files cached on this machine, the hub, the weights that ship
    with the project, untrained ones; `say` is told why a better one was passed over. The others raise
    WeightsUnavailable if they are not available.
    """
    if choice == UNTRAINED:
        return Weights(UNTRAINED, "random initial weights", None)
    if choice == HUB:
        return _cached(variant) or _download(variant)
    if choice == SHIPPED:
        return _shipped(variant)
    if "://" in choice:
        raise WeightsUnavailable(f"{choice} is an address: download it, and give the path of the file")
    if choice != "auto":
        return _file(Path(choice).expanduser())
    try:
        return _cached(variant) or _download(variant)
    except WeightsUnavailable as err:
        say(f"note: {err}. Going on without.")
    try:
        return _shipped(variant)
    except WeightsUnavailable as err:
        say(f"note: {err}. Going on without.")
        return find_weights(UNTRAINED, variant, say)


def _file(path: Path) -> Weights:
    if path.is_dir():
        path = _within_folder(path)
    if not path.is_file():
        what = f"{path} is not a regular file" if path.exists() else f"no weights at {path}"
        raise WeightsUnavailable(f"{what}; give a file, or one of auto, {HUB}, {SHIPPED}, {UNTRAINED}")
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsUnavailable(
            f"{path} has {size / 1e9:.0f} GB, more than any checkpoint of a CrossViT (at most "
            f"{MAX_WEIGHTS_BYTES / 1e9:.0f} GB are read): save only the network's state_dict"
        )
    shipped = path.resolve().parent == SHIPPED_FOLDER
    return Weights.of(path, SHIPPED_SOURCE if shipped else path.name, SHIPPED_CAUTION if shipped else None)


def _within_folder(folder: Path) -> Path:
    """The checkpoint in a folder that a trainer wrote: the file that Hugging Face's libraries name, or the only one."""
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    files = [path for path in folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES and path.is_file()]
    if len(files) != 1:
        raise WeightsUnavailable(f"{folder} {folder_kind(folder)}")
    return files[0]


def _shipped(variant: Variant) -> Weights:
    path = SHIPPED_FOLDER / f"{variant.name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in SHIPPED_FOLDER.glob("*.safetensors")))
        raise WeightsUnavailable(f"no weights of {variant.name} ship with the project, but of {there or 'no network'}")
    return Weights.of(path, SHIPPED_SOURCE, SHIPPED_CAUTION)


def _cached(variant: Variant) -> Weights | None:
    path = hub.try_to_load_from_cache(variant.hub_repo, HUB_FILE)
    return _from_hub(Path(path), variant) if isinstance(path, str) else None


def _download(variant: Variant) -> Weights:
    """Download with a progress bar. The probe comes first since the download itself retries for half a minute."""
    try:
        url = hub.hf_hub_url(variant.hub_repo, HUB_FILE)
        _within(HUB_TIMEOUT_SECONDS, lambda: hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_SECONDS))
        path = hub.hf_hub_download(variant.hub_repo, HUB_FILE)
    except Exception as err:  # the hub's client raises its own errors, its HTTP library's and OSError
        raise WeightsUnavailable(
            f"{variant.hub_repo} is not available from the Hugging Face hub ({type(err).__name__}); "
            "give the path of a checkpoint instead"
        ) from err
    return _from_hub(Path(path), variant)


def _from_hub(path: Path, variant: Variant) -> Weights:
    weights = Weights.of(path, f"Hugging Face hub, {variant.hub_repo} at {path.parent.name}")
    named = path.resolve().name  # large files are stored under their sha256
    if re.fullmatch("[0-9a-f]{64}", named) and weights.id != f"sha256:{named}":
        raise BadCheckpoint(f"{path.resolve()} is damaged: its sha256 is not its name; delete it and try again")
    return weights


def _within(seconds: float, call: Callable[[], T]) -> T:
    """`call()`, given up after `seconds`: a dead resolver can hold a look-up far longer than any timeout says."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as err:
            answer.set_exception(err)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)
