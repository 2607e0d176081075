"""What bundles in the cache are made from: the name of a network, a checkpoint, or a repository of the hub."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from bundle.bundle_errors import ExplainedError
from bundle.file_names import MODEL_NAME
from model.checkpoint_names import CHECKPOINT_SUFFIXES
from model.hub_repository import HUB_FORM, HUB_PREFIX, HubRepository
from model.spec import VARIANTS, variant_named

# Names that trainers and libraries give to every checkpoint: the folder's name says more.
_GENERIC_NAMES = {"best", "checkpoint", "last", "model", "model_best", "pytorch_model", "weights"}
_CONFIG = "config.json"  # beside a checkpoint


class BadSource(ExplainedError):
    """No bundle can be made of what was named."""


@dataclass(frozen=True)
class CachedSource:
    """A source of bundles.

    Attributes:
        text: as `python -m export.pull` takes it.
        identity: the same for all spellings of one source.
        model: the name of the model, and of its bundle's folder.
        checkpoint: the file, or the folder of files, if the source is one.
        fixed: whether the source always stands for the same weights.
    """

    text: str
    identity: str
    model: str
    checkpoint: Path | None = None
    fixed: bool = False

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change (ns) of each file that a bundle of this source is made from, by its path."""
        if self.checkpoint is None:
            return {}
        folder = self.checkpoint if self.checkpoint.is_dir() else self.checkpoint.parent
        beside = [folder / _CONFIG, self.checkpoint.with_suffix(".labels.json")]
        paths = sorted(folder.iterdir()) if self.checkpoint.is_dir() else [self.checkpoint, *beside]
        return file_versions(paths)


def cached_source(text: str) -> CachedSource:
    """The source that `text` names. Raises BadSource if there is none, with what would do."""
    if text.startswith(HUB_PREFIX):
        return _of_hub(text)
    path = Path(text).expanduser()
    if text in VARIANTS or not path.exists():
        name = _network(text)
        return CachedSource(name, name, name, fixed=True)
    path = Path(os.path.abspath(path))  # noqa: PTH100
    return CachedSource(str(path), str(path), _model_name(path), path, fixed=True)


def _network(text: str) -> str:
    """The name of the network that `text` is; BadSource if it is the path of a file that is not there, or a typo."""
    if text.startswith((".", "~", os.sep)) or Path(text).suffix in CHECKPOINT_SUFFIXES:
        raise BadSource(f"there is no {text}: give a checkpoint, a bundle, the name of a network, or {HUB_FORM}")
    try:
        return variant_named(text).name
    except ValueError as err:
        raise BadSource(f"{text} is not a file or folder, and not a network: {err}") from err


def file_versions(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """Size and time of change (ns) of those of `paths` that are files, by their paths."""
    versions = {}
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            if S_ISREG(status.st_mode):
                versions[str(path)] = (status.st_size, status.st_mtime_ns)
    return versions


def _of_hub(text: str) -> CachedSource:
    try:
        repository = HubRepository.named(text)
    except ValueError as err:
        raise BadSource(str(err)) from err
    return CachedSource(text, text, _fit(repository.name), fixed=repository.is_commit)


def _model_name(checkpoint: Path) -> str:
    stem = checkpoint.name if checkpoint.is_dir() else checkpoint.name.partition(".")[0] or checkpoint.name
    return _fit(checkpoint.parent.name if stem in _GENERIC_NAMES and not checkpoint.is_dir() else stem)


def _fit(name: str) -> str:
    """`name` with other characters than a model's name may have replaced."""
    fitting = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-")[:100]
    return fitting if MODEL_NAME.fullmatch(fitting) else "model"
