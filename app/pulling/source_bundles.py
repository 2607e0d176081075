"""The bundles of the sources that `crossvit serve` is given; those that are not there are made first."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from app.errors import PullFailed
from app.machine.signals import outside
from app.pulling.pull_command import PULL_PACKAGES, pull_command_line
from app.pulling.pull_options import replaced_options, same_options, without_option
from bundle.bundle_errors import BadBundle
from bundle.cached_source import CachedSource, cached_source
from bundle.discovery import find_bundles
from bundle.installation import require_packages
from bundle.pulled_bundles import is_unchanged, pulled_folder, read_pull_record
from model.command_line import MISUSED
from model.hub_repository import HUB_PREFIX

_POLL_SECONDS = 0.02
_END_SECONDS = 3.0  # for a child to remove what it has half made
_QUANTIZE = "--quantize"


def bundles_of_sources(sources: Sequence[str], options: Sequence[str], say: Callable[[str], None]) -> list[Path]:
    """The paths of the bundles of `sources`; a source that is a bundle, or a folder of them, is its own.

    `options` are those of `crossvit pull`, for sources that are not bundles; without any, a bundle stays as it was
    made. Raises BadSource, PullFailed or NotInstalled, and BadBundle if two models would have one name.
    """
    found = [_own_bundle(text) or cached_source(text) for text in sources]
    _check_names(found)
    return [each if isinstance(each, Path) else _made(each, list(options), say) for each in found]


def _own_bundle(text: str) -> Path | None:
    """The path that `text` is, if there is a bundle or a folder of them."""
    path = Path(text).expanduser()
    plain = os.sep not in text and not path.is_dir()  # the name of a network, or a file
    return None if plain or text.startswith(HUB_PREFIX) or not find_bundles(path).bundles else path


def _check_names(found: Sequence[Path | CachedSource]) -> None:
    """Raise BadBundle if two models would have one name."""
    places: dict[str, str] = {}
    for each in found:
        bundles = find_bundles(each).bundles if isinstance(each, Path) else {each.model: each.text}
        for name, place in bundles.items():
            if (first := places.setdefault(name, str(place))) != str(place):
                raise BadBundle(f"two models would be called {name}: {first} and {place}; rename a file or folder")


def _made(source: CachedSource, options: list[str], say: Callable[[str], None]) -> Path:
    """The bundle of `source` in the cache, made now unless it is as it would be made."""
    try:
        bundle = pulled_folder(source)
    except OSError as err:
        raise PullFailed(f"there is no place for the bundle of {source.text}: {err}") from err
    record = read_pull_record(bundle)
    kept = [] if record is None else without_option(record.options, _QUANTIZE)  # a service adds that while it serves
    wanted = replaced_options(kept, options)
    if record is not None and same_options(wanted, kept) and is_unchanged(bundle, source, record):
        return bundle
    require_packages(PULL_PACKAGES, "cpu", "making a bundle")
    say(f"{source.model}: making the bundle of {source.text}")
    status = _run_child(pull_command_line(source.text, wanted))
    served_before = record is not None and source.checkpoint is None and same_options(wanted, kept)
    if status == MISUSED or (status and not served_before):
        raise PullFailed(f"{source.text} cannot be served: no bundle of it could be made")
    if status:
        say(f"warning: {source.text} could not be made anew, as said above; its bundle is served as it was made before")
    return bundle


def _run_child(command: Sequence[str]) -> int:
    """The exit status of `command`, which prints for itself, and ends with this process."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    outside.cleanup = partial(_end, child)
    while (status := child.poll()) is None:  # no wait(), in which a signal would find the child's lock taken
        time.sleep(_POLL_SECONDS)
    outside.cleanup = lambda: None
    return status


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _END_SECONDS
    while child.poll() is None:
        if time.monotonic() > deadline:
            child.kill()
        time.sleep(_POLL_SECONDS)
