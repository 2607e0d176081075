"""The record of a bundle in the cache: with it `crossvit serve` knows what it was made from, and with which options."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bundle.cached_source import CachedSource
from bundle.manifest import read_manifest_head
from bundle.pulled_bundles import pulled_folder, write_pull_record

_FILES = ("--labels", "--images", "--calibration")  # options whose value is a path
_IF_CHANGED = "--if-changed"


def remember_pull(source: CachedSource, options: Sequence[str]) -> None:
    """Write the record of the bundle of `source`, which was made with these options."""
    bundle = pulled_folder(source)
    head = read_manifest_head(bundle)
    stands_in = source.checkpoint is None and bool(head and head.weights and head.weights.caution)
    write_pull_record(bundle, source, list(_absolute(options)), fixed=not stands_in)


def _absolute(options: Sequence[str]) -> Iterator[str]:
    """The options, without the one that says when, each value on its own, and paths absolute."""
    words = [word for option in options for word in (option.split("=", 1) if option.startswith("--") else [option])]
    is_path = False
    for word in words:
        if word != _IF_CHANGED:
            yield str(Path(word).expanduser().absolute()) if is_path else word
        is_path = word in _FILES
