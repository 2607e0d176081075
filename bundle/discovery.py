"""Finding bundles: at a path, or in the folder there, beside other files of a volume."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from bundle.bundle_errors import BadBundle
from bundle.file_names import MANIFEST, MODEL_NAME
from bundle.permissions import unreadable


@dataclass(frozen=True)
class FoundBundles:
    """The bundles at a path.

    Names that begin with a dot are in none of these: volumes keep their own data so, and copies under way.

    Attributes:
        path: where they were looked for.
        bundles: by their names.
        passed_over: the reasons why other folders are not bundles: no manifest, no permission, an invalid name.
        fault: the reason why `path` could not be read, or "".
    """

    path: Path
    bundles: dict[str, Path] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    fault: str = ""

    def default(self, requested: str | None) -> str:
        """The name of the default model: `requested`, or the only one. Raises BadBundle if that does not exist."""
        if not self.bundles:
            reasons = "; ".join(filter(None, [self.fault, *self.passed_over.values()]))
            raise BadBundle(
                f"no bundle at {self.path}{f' ({reasons})' if reasons else ''}; "
                "make one with: python export/to_onnx.py --variant crossvit_9_dagger"
            )
        names = ", ".join(self.bundles)
        if requested is None and len(self.bundles) > 1:
            raise BadBundle(f"there are several models at {self.path}; choose one with --default-model: {names}")
        if requested is not None and requested not in self.bundles:
            reason = f"; {self.passed_over[requested]}" if requested in self.passed_over else ""
            raise BadBundle(f"there is no model {requested!r} at {self.path}; there is {names}{reason}")
        return requested or next(iter(self.bundles))


def find_bundles(path: Path) -> FoundBundles:
    """The bundles at `path`, which is one itself or a folder of them; raises nothing. A link keeps its own name."""
    try:
        path = Path(os.path.abspath(path))  # noqa: PTH100
        if _has_manifest(path):
            return FoundBundles(path, {path.name: path})
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return FoundBundles(path, fault=f"there is no {path}")
    except OSError as err:
        return FoundBundles(path, fault=unreadable(path, err))
    result = FoundBundles(path)
    for entry in entries:
        if (reason := _not_a_bundle(entry)) is None:
            result.bundles[entry.name] = entry
        elif reason:
            result.passed_over[entry.name] = reason
    return result


def bundle_at(path: Path, default: str | None) -> Path:
    """The bundle at `path`, or of those in that folder the `default` one or the only one. Raises BadBundle."""
    bundles = find_bundles(path)
    if list(bundles.bundles.values()) == [bundles.path]:
        return bundles.path
    return bundles.bundles[bundles.default(default)]


def _not_a_bundle(entry: Path) -> str | None:
    """The reason why `entry` is not a bundle; None if it is one, "" for a file, which is not meant to be one."""
    try:
        if not _has_manifest(entry):
            return f"{_printable(entry)} has no {MANIFEST}" if entry.is_dir() else ""
    except FileNotFoundError:
        return f"{_printable(entry)} is a link to nothing"
    except OSError as err:
        return unreadable(entry / MANIFEST, err)
    if not MODEL_NAME.fullmatch(entry.name):
        return f"{_printable(entry)}: a model's name has only letters, digits, '.', '_' and '-'; rename the folder"
    return None


def _has_manifest(path: Path) -> bool:
    """Raises FileNotFoundError if nothing is at `path`, and other OSErrors if it cannot be read."""
    try:
        return stat.S_ISREG((path / MANIFEST).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        path.stat()
        return False


def _printable(path: Path) -> str:
    """`path`, escaped if it has bytes that are not text, or that control a terminal."""
    return str(path) if str(path).isprintable() else ascii(str(path))
