"""Files of the Hugging Face hub: the official weights, and `hf:owner/name[@revision]`; imports no torch.

The client is huggingface_hub, with its cache, its environment (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN), its
tokens and its progress bars.
"""

import errno
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import huggingface_hub as hub
from huggingface_hub import constants as hub_settings
from huggingface_hub import errors

from model.config_beside import NAME as CONFIG
from model.spec import Variant

T = TypeVar("T")
Say = Callable[[str], None]

HUB_PREFIX = "hf:"
HUB_FILE = "model.safetensors"
FOLDER_FILES = (HUB_FILE, "pytorch_model.bin")  # what transformers and accelerate call a network's weights
CHECKPOINT_SUFFIXES = frozenset((".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar"))
HUB_TIMEOUT_SECONDS = 4.5  # for an answer; a download may take as long as it goes on

_REPOSITORY = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_GIVE_PATH = "give the path of a checkpoint instead"


class HubUnavailable(Exception):
    """The hub does not give the file; the message says why, and what to do."""


class HubUnreachable(HubUnavailable):
    """The hub gives no answer at all, so that what is cached may be taken."""


@dataclass(frozen=True)
class HubRepository:
    """A repository of models, and the branch, tag or commit that is meant; None is its main branch."""

    id: str
    revision: str | None = None

    @classmethod
    def named(cls, text: str) -> "HubRepository":
        """That of `hf:owner/name[@revision]`; raises HubUnavailable if `text` has another form."""
        found = _REPOSITORY.fullmatch(text.removeprefix(HUB_PREFIX))
        if found is None:
            form = f"{HUB_PREFIX}owner/name"
            raise HubUnavailable(f"{text} names no repository: write {form}, or {form}@revision")
        return cls(found["id"], found["revision"])

    @property
    def is_commit(self) -> bool:
        """Whether its files can never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.id + (f" at {self.revision}" if self.revision else "")


def official_weights(variant: Variant, say: Say) -> Path:
    """The published weights of `variant`: the cached file, without asking the hub, or a download."""
    cached = hub.try_to_load_from_cache(variant.hub_repo, HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    repository = HubRepository(variant.hub_repo)
    with _explained(repository):
        url = hub.hf_hub_url(repository.id, HUB_FILE)
        # The probe comes first since the download itself tries again for half a minute.
        found = _within(HUB_TIMEOUT_SECONDS, lambda: hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_SECONDS))
        return _download(repository, HUB_FILE, found.size, say)


def repository_weights(repository: HubRepository, say: Say) -> Path:
    """The checkpoint of `repository`, with the files beside it that name its classes and its preprocessing.

    The hub is asked first, unless the revision is a commit that is cached. If it does not answer, what is cached of the
    branch is taken, and `say` is told.
    """
    cached = _cached_weights(repository)
    if cached is not None and repository.is_commit:
        return cached
    try:
        with _explained(repository):
            sizes = _within(HUB_TIMEOUT_SECONDS, lambda: _files(repository))
    except HubUnavailable as err:
        if cached is None or not isinstance(err, HubUnreachable):
            raise
        say(f"note: {err}. Taking what is cached of it, {cached.parent.name}.")
        return cached
    name = _weights_file(sizes, repository)
    with _explained(repository):
        # The weights come last: where they are cached, so is what belongs to them.
        beside = [file for file in (CONFIG, f"{Path(name).stem}.labels.json") if file in sizes]
        paths = [Path(hub.hf_hub_download(repository.id, file, revision=repository.revision)) for file in beside]
        path = _download(repository, name, sizes[name], say)
    if any(other.parent != path.parent for other in paths):
        raise HubUnavailable(f"{repository} changed while it was downloaded: try again")
    return path


def _files(repository: HubRepository) -> dict[str, int | None]:
    """The files at the top of the repository, with their sizes in bytes."""
    info = hub.model_info(repository.id, revision=repository.revision, timeout=HUB_TIMEOUT_SECONDS, files_metadata=True)
    return {file.rfilename: file.size for file in info.siblings or () if "/" not in file.rfilename}


def _cached_weights(repository: HubRepository) -> Path | None:
    try:
        folder = Path(hub.snapshot_download(repository.id, revision=repository.revision, local_files_only=True))
    except errors.IncompleteSnapshotError as err:  # of files that are not wanted here
        folder = Path(err.snapshot_path)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
    try:
        return folder / _weights_file([path.name for path in folder.iterdir()], repository)
    except HubUnavailable:
        return None


def _weights_file(names: Collection[str], repository: HubRepository) -> str:
    """The name of the checkpoint among files called `names`: what Hugging Face's libraries name so, or the only one."""
    for name in FOLDER_FILES:
        if name in names:
            return name
    found = sorted(name for name in names if Path(name).suffix in CHECKPOINT_SUFFIXES)
    if len(found) == 1:
        return found[0]
    what = f"holds several checkpoints ({', '.join(found)})" if found else "holds no checkpoint"
    raise HubUnavailable(f"{repository} {what} and no {HUB_FILE}: download the one that is meant, and give its path")


def _download(repository: HubRepository, name: str, size: int | None, say: Say) -> Path:
    """The path of the file in the cache, after a download with a progress bar if it is not there."""
    if not sys.stderr.isatty():  # then there is no progress bar
        say(f"fetching {name} of {repository}" + (f", {size / 1e6:.0f} MB" if size else ""))
    return Path(hub.hf_hub_download(repository.id, name, revision=repository.revision))


@contextmanager
def _explained(repository: HubRepository) -> Iterator[None]:
    """Errors of the hub's client as HubUnavailable: it raises its own, its HTTP library's and OSError."""
    try:
        yield
    except Exception as err:
        refusal = _refusal(err, repository)
        kind = HubUnreachable if refusal is None else HubUnavailable
        raise kind(f"{repository} is not available from the Hugging Face hub: {refusal or _silence(err)}") from err


def _refusal(err: Exception, repository: HubRepository) -> str | None:
    """What the hub, or this machine, has against giving the file; None if the hub does not answer."""
    match err:
        case errors.GatedRepoError():
            page = f"{hub_settings.ENDPOINT}/{repository.id}"
            return f"it is gated. Accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return (
                "there is no such repository, or it is private. Check the name; for a private one log in with "
                "`hf auth login` or set HF_TOKEN"
            )
        case errors.RevisionNotFoundError():
            return "there is no such revision. Give a branch, a tag or a commit behind the @"
        case errors.EntryNotFoundError() if not isinstance(err, errors.LocalEntryNotFoundError):
            return f"it has no {HUB_FILE}; {_GIVE_PATH}"
        case errors.HFValidationError():
            return "that is no name of a repository; owner/name is"
        case errors.HfHubHTTPError() if err.response.status_code in (401, 403):
            return f"the token is refused ({err.response.status_code}). Log in with `hf auth login` or set HF_TOKEN"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"there is no room in {hub_settings.HF_HUB_CACHE}. Make some, or set HF_HOME to another folder"
        case PermissionError() | OSError(errno=errno.EROFS):
            return f"{hub_settings.HF_HUB_CACHE} cannot be written. Set HF_HOME to another folder"
    return None


def _silence(err: Exception) -> str:
    """Why the hub gives no whole answer."""
    if hub_settings.is_offline_mode():
        return f"HF_HUB_OFFLINE is set, and {hub_settings.HF_HUB_CACHE} does not have it. Unset it, or {_GIVE_PATH}"
    if isinstance(err, errors.HfHubHTTPError):
        what = f"answers {err.response.status_code}. Try again"
    elif isinstance(err, errors.FileMetadataError | ValueError) or isinstance(err.__cause__, errors.FileMetadataError):
        what = "does not answer as a hub does. Check proxies"
    else:
        what = f"cannot be reached, or broke off ({type(err).__name__}). Try again"
    return f"{hub_settings.ENDPOINT} {what}, set HF_ENDPOINT to a mirror, or {_GIVE_PATH}"


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
