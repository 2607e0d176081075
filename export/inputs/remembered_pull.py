"""The record of a bundle in the cache: with it `crossvit serve` knows what it was made from, and with which options."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bundle.cached_source import CachedSource
from bundle.manifest import read_manifest_head
from bundle.pulled_bundles import files_of, pulled_folder, write_pull_record

_FILES = ("--labels", "--images", "--calibration")  # options whose value is a path
_OF_ONE_RUN = {"--if-changed": 0, "--only-weights": 1}  # options that say nothing of the bundle, and their values


class RememberedPull:
    """What the bundle of `source` is made from with `options`: files as they are now, before any of them is read."""

    def __init__(self, source: CachedSource, options: Sequence[str]) -> None:
        self._source = source
        self._options = list(_absolute(options))
        self._files = files_of(source, self._options)

    def write(self, say: Callable[[str], None]) -> None:
        """Write the record of the bundle, which is made now; `say` is told if a file has changed meanwhile."""
        bundle = pulled_folder(self._source)
        head = read_manifest_head(bundle)
        stands_in = self._source.checkpoint is None and bool(head and head.weights and head.weights.caution)
        write_pull_record(bundle, self._source, self._options, self._files, fixed=not stands_in)
        if files_of(self._source, self._options) != self._files:
            say("note: a file that the bundle is made from changed meanwhile; the next start makes it again")


def options_without(source: str, words: Sequence[str], values: Mapping[str, int]) -> list[str]:
    """The options among `words`, without the argument `source`.

    `values` has the number of values of each option, which may be the same word as the source.
    """
    options: list[str] = []
    remaining = 0
    for word in words:
        if remaining or word.startswith("--") or word != source:
            options.append(word)
        remaining = remaining - 1 if remaining else 0 if "=" in word else values.get(word, 0)
    return options


def _absolute(options: Sequence[str]) -> Iterator[str]:
    """The options of the bundle itself, each value on its own, and paths absolute."""
    words = [word for option in options for word in (option.split("=", 1) if option.startswith("--") else [option])]
    is_path = False
    passed_over = 0
    for word in words:
        if passed_over:
            passed_over -= 1
        elif word in _OF_ONE_RUN:
            passed_over = _OF_ONE_RUN[word]
        else:
            yield str(Path(word).expanduser().absolute()) if is_path else word
        is_path = word in _FILES
