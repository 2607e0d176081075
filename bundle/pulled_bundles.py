"""The bundles that `crossvit pull` and `crossvit serve` made, in the user's cache folder, found by what they are of.

Each source has a folder of its own, so that two checkpoints of one file name do not replace each other. It has the
bundle, called like the model, and a record of what the bundle was made from.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bundle.atomic_files import replace_file
from bundle.bundle_errors import BadBundle
from bundle.cache_folder import cache_folder
from bundle.cached_source import CachedSource, file_versions
from bundle.file_names import MANIFEST
from bundle.manifest import MANIFEST_FORMAT, read_manifest_head
from model.spec import variant_named

_RECORD = "pulled.json"


@dataclass(frozen=True)
class PullRecord:
    """What a bundle was made from.

    Attributes:
        source: as `python -m export.pull` takes it.
        options: of that command, but for the source; paths in them are absolute.
        files: size and time of change (ns) of each file that was read, by its path.
        fixed: whether making it again from the same files could not give other weights.
        made_with: the version of this package.
    """

    source: str
    options: list[str]
    files: dict[str, list[int]]
    fixed: bool
    made_with: str


_RECORDS = TypeAdapter(PullRecord)


def pulled_folder(source: CachedSource) -> Path:
    """Where the bundle of `source` is, or would be. Raises OSError if the user has no home."""
    digest = hashlib.sha256(source.identity.encode(errors="surrogateescape")).hexdigest()
    return _root() / digest[:16] / source.model


def files_of(source: CachedSource, options: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Size and time of change (ns) of each file that the bundle of `source` is made from, by its path."""
    return source.files() | file_versions(Path(option) for option in options if Path(option).is_absolute())


def write_pull_record(
    bundle: Path, source: CachedSource, options: Sequence[str], files: Mapping[str, tuple[int, int]], *, fixed: bool
) -> None:
    """Note what `bundle`, which is at `pulled_folder(source)`, was made from; `files` are as they were before.

    `fixed` is false for weights that stand in for those of the source, since the hub could not be reached.
    """
    record = PullRecord(
        source.text,
        list(options),
        {path: list(seen) for path, seen in files.items()},
        fixed and source.fixed,
        version("crossvit"),
    )
    replace_file(bundle.parent / _RECORD, json.dumps(asdict(record), indent=2).encode())


def read_pull_record(bundle: Path) -> PullRecord | None:
    """What `bundle` was made from; None if that is not known, or no longer what this version makes."""
    try:
        return _RECORDS.validate_json((bundle.parent / _RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def is_unchanged(bundle: Path, source: CachedSource, record: PullRecord) -> bool:
    """Whether making `bundle` again would change nothing; no file is read for that, and no hub is asked."""
    head = read_manifest_head(bundle)
    if head is None or head.format != MANIFEST_FORMAT or record.made_with != version("crossvit") or not record.fixed:
        return False
    present = {path: list(seen) for path, seen in (source.files() | file_versions(map(Path, record.files))).items()}
    return present == record.files


def pulled_bundles() -> dict[str, list[Path]]:
    """The bundles in the cache, by the names of their models; several sources may have given one name."""
    found: dict[str, list[Path]] = {}
    for bundle in _bundles():
        found.setdefault(bundle.name, []).append(bundle)
    return found


def bundle_named(bundle: Path) -> Path:
    """`bundle`, or the bundle of that name in the cache if nothing is there. Raises BadBundle if that is not clear."""
    if bundle.exists() or bundle.name != str(bundle):
        return bundle
    found = pulled_bundles().get(_network(bundle.name), [])
    if len(found) > 1:
        raise BadBundle(
            f"there are several bundles called {bundle}: {', '.join(map(str, found))}; give one of these paths"
        )
    if not found:
        raise BadBundle(
            f"there is no bundle at {bundle}, and none of that name was pulled; crossvit pull {bundle} makes one"
        )
    return found[0]


def _network(name: str) -> str:
    try:
        return variant_named(name).name
    except ValueError:
        return name


def _bundles() -> Iterator[Path]:
    try:
        yield from sorted(manifest.parent for manifest in _root().glob(f"*/[!.]*/{MANIFEST}"))
    except OSError:
        return


def _root() -> Path:
    return cache_folder() / "bundles"
