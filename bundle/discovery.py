"""Finding bundles: at paths, or in the folders there, beside other files of a volume."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundle.bundle_errors import BadBundle
from bundle.file_names import MANIFEST, MODEL_NAME, MODEL_NAME_RULE
from bundle.permissions import unreadable
from model.spec import VARIANTS


@dataclass
class FoundBundles:
    """The bundles at some paths.

    Names that begin with a dot are in none of these: volumes keep their own data so, and copies under way.

    Attributes:
        paths: where they were looked for.
        bundles: by their names.
        passed_over: the reasons why other folders are not bundles: no manifest, no permission, an invalid name.
        faults: the reasons why a path could not be read.
        clashes: sentences about bundles of one name at several paths; the first one is in `bundles`.
    """

    paths: Sequence[Path]
    bundles: dict[str, Path] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)

    def default(self, requested: str | None) -> str:
        """The name of the default model: `requested`, or the only one, or the first one of several paths.

        Raises BadBundle if that does not exist.
        """
        if self.clashes:
            raise BadBundle(self.clashes[0])
        place = ", ".join(map(str, self.paths))
        if not self.bundles:
            reasons = "; ".join([*self.faults, *self.passed_over.values()])
            named = next((path.name for path in self.paths if path.name in VARIANTS), "crossvit_9_dagger")
            raise BadBundle(
                f"no bundle at {place}{f' ({reasons})' if reasons else ''}; make one and serve it with: crossvit serve "
                f"{named}"
            )
        names = ", ".join(self.bundles)
        if requested is None and len(self.bundles) > 1 and len(self.paths) == 1:
            raise BadBundle(f"there are several models at {place}; choose one with --default-model: {names}")
        if requested is not None and requested not in self.bundles:
            reason = f"; {self.passed_over[requested]}" if requested in self.passed_over else ""
            raise BadBundle(f"there is no model {requested!r} at {place}; there is {names}{reason}")
        return requested or next(iter(self.bundles))

    def add(self, path: Path) -> None:
        """Add the bundle at `path`, or those in that folder."""
        try:
            path = Path(os.path.abspath(path))  # noqa: PTH100
            if _has_manifest(path):
                self._add_bundle(path)
                return
            entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        except FileNotFoundError:
            self.faults.append(f"there is no {path}")
            return
        except OSError as err:
            self.faults.append(unreadable(path, err))
            return
        for entry in entries:
            if (reason := _not_a_bundle(entry)) is None:
                self._add_bundle(entry)
            elif reason:
                self.passed_over[entry.name] = reason

    def rename(self, name: str) -> None:
        """Call the only bundle `name`; several are a clash and a fault, and then there is none."""
        if len(self.bundles) > 1:
            self.clashes.append(f"{name} can be the name of one model only, and there are {', '.join(self.bundles)}")
            self.faults.append(self.clashes[-1])
            self.bundles = {}
        elif self.bundles:
            self.bundles = dict.fromkeys([name], *self.bundles.values())

    def _add_bundle(self, path: Path) -> None:
        first = self.bundles.setdefault(path.name, path)
        if first != path:
            self.clashes.append(
                f"two models would be called {path.name}: {first} and {path}; give one of the folders another name"
            )


def find_bundles(*paths: Path, name: str | None = None) -> FoundBundles:
    """The bundles at `paths`, each one itself or a folder of them; raises nothing. A link keeps its own name.

    `name` is that of the only bundle, instead of its folder's name.
    """
    found = FoundBundles(paths)
    for path in paths:
        found.add(path)
    if name is not None:
        found.rename(name)
    return found


def bundle_at(paths: Sequence[Path], default: str | None) -> Path:
    """The bundle at the only path; else of those there the `default` one, the only one, or the first of several paths.

    Raises BadBundle.
    """
    found = find_bundles(*paths)
    alone = len(paths) == 1 and _is_bundle(paths[0])
    return found.bundles[found.default(None if alone else default)]


def _is_bundle(path: Path) -> bool:
    try:
        return _has_manifest(path)
    except OSError:
        return False


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
        return f"{_printable(entry)}: a model's name has {MODEL_NAME_RULE}; rename the folder"
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
