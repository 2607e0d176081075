"""Why the Hugging Face hub does not give a file, and what to do: a sentence for each way that its client fails."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants as hub_settings
from huggingface_hub import errors

from model.checkpoint_names import WEIGHTS_FILE

_GIVE_PATH = "give the path of a checkpoint instead"


class HubUnavailable(Exception):
    """The hub does not give the file; the message says why, and what to do."""


class HubUnreachable(HubUnavailable):
    """The hub gives no answer at all, so that what is cached may be taken."""


@contextmanager
def explained(repository: str, page: str, failed: str = "cannot be reached") -> Iterator[None]:
    """Errors of the hub's client as HubUnavailable: it raises its own, its HTTP library's and OSError.

    `repository` is what messages call it, `page` its address for a browser, and `failed` what a hub does that gives no
    whole answer.
    """
    try:
        yield
    except Exception as err:
        refusal = _refusal(err, page)
        kind = HubUnreachable if refusal is None else HubUnavailable
        raise kind(
            f"{repository} is not available from the Hugging Face hub: {refusal or _silence(err, failed)}"
        ) from err


def _refusal(err: Exception, page: str) -> str | None:
    """What the hub, or this machine, has against giving the file; None if the hub does not answer."""
    match err:
        case errors.GatedRepoError():
            return f"it is gated. Accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return (
                "there is no such repository, or it is private. Check the name; for a private one log in with "
                "`hf auth login` or set HF_TOKEN"
            )
        case errors.RevisionNotFoundError():
            return "there is no such revision. Give a branch, a tag or a commit behind the @"
        case errors.EntryNotFoundError() if not isinstance(err, errors.LocalEntryNotFoundError):
            return f"it has no {WEIGHTS_FILE}; {_GIVE_PATH}"
        case errors.HFValidationError():
            return "that is no name of a repository; owner/name is"
        case errors.HfHubHTTPError() if err.response.status_code in (401, 403):
            return f"the token is refused ({err.response.status_code}). Log in with `hf auth login` or set HF_TOKEN"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"there is no room in {hub_settings.HF_HUB_CACHE}. Make some, or set HF_HOME to another folder"
        case PermissionError() | OSError(errno=errno.EROFS):
            return f"{hub_settings.HF_HUB_CACHE} cannot be written. Set HF_HOME to another folder"
    return None


def _silence(err: Exception, failed: str) -> str:
    """Why the hub gives no whole answer."""
    if hub_settings.is_offline_mode():
        return f"HF_HUB_OFFLINE is set, and {hub_settings.HF_HUB_CACHE} does not have it. Unset it, or {_GIVE_PATH}"
    if isinstance(err, errors.HfHubHTTPError):
        what = f"answers {err.response.status_code}. Try again"
    elif isinstance(err, errors.FileMetadataError | ValueError) or isinstance(err.__cause__, errors.FileMetadataError):
        what = "does not answer as a hub does. Check proxies"
    else:
        what = f"{failed} ({type(err).__name__}). Try again"
    return f"{hub_settings.ENDPOINT} {what}, set HF_ENDPOINT to a mirror, or {_GIVE_PATH}"
