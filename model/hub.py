"""Files of the Hugging Face hub: the official weights, and `hf:owner/name[@revision]`; imports no torch.

The client is huggingface_hub, with its cache, its environment (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN), its
tokens and its progress bars.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import huggingface_hub as hub
from huggingface_hub import constants as hub_settings
from huggingface_hub import errors

from model.checkpoint_names import WEIGHTS_FILE, checkpoints_among
from model.config_beside import NAME as CONFIG
from model.hub_errors import HubUnavailable, HubUnreachable, explained
from model.hub_repository import HubRepository
from model.spec import Variant

T = TypeVar("T")

HUB_TIMEOUT_SECONDS = 4.5  # for an answer; a download may take as long as it goes on

_BROKE_OFF = "broke off the download"


def official_weights(variant: Variant, say: Callable[[str], None]) -> Path:
    """The published weights of `variant`: the cached file, without asking the hub, or a download."""
    cached = hub.try_to_load_from_cache(variant.hub_repo, WEIGHTS_FILE)
    if isinstance(cached, str):
        return Path(cached)
    repository = HubRepository(variant.hub_repo)
    with explained(str(repository), _page(repository)):
        url = hub.hf_hub_url(repository.id, WEIGHTS_FILE)
        # The probe comes first since the download itself tries again for half a minute.
        found = _within(HUB_TIMEOUT_SECONDS, lambda: hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_SECONDS))
    with explained(str(repository), _page(repository), _BROKE_OFF):
        return _download(repository, WEIGHTS_FILE, found.size, say)


def repository_weights(repository: HubRepository, say: Callable[[str], None]) -> Path:
    """The checkpoint of `repository`, with the files beside it that name its classes and its preprocessing.

    The hub is asked first, unless the revision is a commit that is cached. If it does not answer, what is cached of the
    branch is taken, and `say` is told.
    """
    cached = _cached_weights(repository)
    if cached is not None and repository.is_commit and _has_all(repository, cached):
        return cached
    try:
        with explained(str(repository), _page(repository)):
            commit, sizes = _within(HUB_TIMEOUT_SECONDS, lambda: _contents(repository))
    except HubUnavailable as err:
        if cached is None or not isinstance(err, HubUnreachable):
            raise
        say(f"note: {err}. Taking what is cached of it, {cached.parent.name}.")
        return cached
    if cached is not None and cached.parent.name == commit and _has_all(repository, cached):
        return cached
    name = _weights_file(sizes, repository)
    with explained(str(repository), _page(repository), _BROKE_OFF):
        paths = [path for file in _belonging(name) if (path := _download_if_there(repository, file)) is not None]
        path = _download(repository, name, sizes[name], say)
    if any(other.parent != path.parent for other in paths):
        raise HubUnavailable(f"{repository} changed while it was downloaded: try again")
    return path


def _page(repository: HubRepository) -> str:
    """Its address for a browser."""
    return f"{hub_settings.ENDPOINT}/{repository.id}"


def _contents(repository: HubRepository) -> tuple[str | None, dict[str, int | None]]:
    """The commit, and the sizes in bytes of the files at the top of the repository."""
    info = hub.model_info(repository.id, revision=repository.revision, timeout=HUB_TIMEOUT_SECONDS, files_metadata=True)
    return info.sha, {file.rfilename: file.size for file in info.siblings or () if "/" not in file.rfilename}


def _belonging(weights: str) -> tuple[str, str]:
    """The files that describe those weights, where the repository has them."""
    return CONFIG, f"{Path(weights).stem}.labels.json"


def _has_all(repository: HubRepository, cached: Path) -> bool:
    """Whether each file that may belong to the cached weights is cached too, or known not to be in that commit."""
    commit = cached.parent.name
    return all(
        hub.try_to_load_from_cache(repository.id, file, revision=commit) is not None for file in _belonging(cached.name)
    )


def _download_if_there(repository: HubRepository, name: str) -> Path | None:
    """Asked for even if it is not listed: the client notes in the cache that there is none."""
    try:
        return Path(hub.hf_hub_download(repository.id, name, revision=repository.revision))
    except errors.RemoteEntryNotFoundError:
        return None


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


def _weights_file(names: Iterable[str], repository: HubRepository) -> str:
    """The name of the one checkpoint among files called `names`."""
    found = checkpoints_among(names)
    if len(found) == 1:
        return found[0]
    what = f"holds several checkpoints ({', '.join(found)})" if found else "holds no checkpoint"
    raise HubUnavailable(
        f"{repository} {what} and no {WEIGHTS_FILE}: download the one that is meant, and give its path"
    )


def _download(repository: HubRepository, name: str, size: int | None, say: Callable[[str], None]) -> Path:
    """The path of the file in the cache, after a download with a progress bar if it is not there."""
    if not sys.stderr.isatty():  # then there is no progress bar
        say(f"fetching {name} of {repository}" + (f", {size / 1e6:.0f} MB" if size else ""))
    return Path(hub.hf_hub_download(repository.id, name, revision=repository.revision))


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
