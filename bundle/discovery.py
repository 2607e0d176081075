"""Finding bundles: at a path, or in the folder there, beside whatever else a volume has."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from bundle.bundle_errors import BadBundle
from bundle.permissions import unreadable
from bundle.reader import MANIFEST, NAME


@dataclass(frozen=True)
class FoundBundles:
    """What is at `path`.

    `bundles` by their names. `passed_over` are its other folders, and why: no manifest, no permission, a name that no
    model can have. What begins with a dot is not mentioned: volumes keep their own data so, and copies under way.
    `fault` says why there was nothing to look into.
    """

    path: Path
    bundles: dict[str, Path] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    fault: str = ""

    def default(self, wanted: str | None) -> str:
        """The name of the default model: the one `wanted`, or the only one. BadBundle if there is none."""
        if not self.bundles:
            reasons = "; ".join(filter(None, [self.fault, *self.passed_over.values()]))
            raise BadBundle(
                f"no bundle at {self.path}{f' ({reasons})' if reasons else ''}; "
                "make one with: python export/to_onnx.py --variant crossvit_9_dagger"
            )
        names = ", ".join(self.bundles)
        if wanted is None and len(self.bundles) > 1:
            raise BadBundle(f"there are several models at {self.path}; choose one with --default-model: {names}")
        if wanted is not None and wanted not in self.bundles:
            why = f"; {self.passed_over[wanted]}" if wanted in self.passed_over else ""
            raise BadBundle(f"there is no model {wanted!r} at {self.path}; there is {names}{why}")
        return wanted or next(iter(self.bundles))


def find_bundles(path: Path) -> FoundBundles:
    """What is at `path`, a bundle or a folder of bundles; raises nothing. A link keeps its own name."""
    try:
        path = Path(os.path.abspath(path))  # noqa: PTH100
        if _has_manifest(path):
            return FoundBundles(path, {path.name: path})
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return FoundBundles(path, fault=f"there is no {path}")
    except OSError as err:
        return FoundBundles(path, fault=unreadable(path, err))
    found = FoundBundles(path)
    for entry in entries:
        if (why := _no_bundle(entry)) is None:
            found.bundles[entry.name] = entry
        elif why:
            found.passed_over[entry.name] = why
    return found


def bundle_at(path: Path, default: str | None) -> Path:
    """The bundle at `path`, or of those in that folder the `default` one or the only one. Raises BadBundle."""
    found = find_bundles(path)
    if list(found.bundles.values()) == [found.path]:
        return found.path
    return found.bundles[found.default(default)]


def _no_bundle(entry: Path) -> str | None:
    """None if `entry` is a bundle, else why not; "" for a file, which is not meant to be one."""
    try:
        if not _has_manifest(entry):
            return f"{_shown(entry)} has no {MANIFEST}" if entry.is_dir() else ""
    except FileNotFoundError:
        return f"{_shown(entry)} is a link to nothing"
    except OSError as err:
        return unreadable(entry / MANIFEST, err)
    if not NAME.fullmatch(entry.name):
        return f"{_shown(entry)}: a model's name has letters, digits, '.', '_' and '-' alone; rename the folder"
    return None


def _has_manifest(path: Path) -> bool:
    """Raises FileNotFoundError if there is nothing at `path`, and what else keeps one from looking."""
    try:
        return stat.S_ISREG((path / MANIFEST).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        path.stat()
        return False


def _shown(path: Path) -> str:
    """A name may hold bytes that are no text, or that control a terminal."""
    return str(path) if str(path).isprintable() else ascii(str(path))
