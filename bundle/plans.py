"""The plans in a bundle's folder `engines`, each in a folder of its own with the passport that says what it is for."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from bundle.plan_manifest import PlanManifest

FOLDER = "engines"
PLAN = "plan"
PASSPORT = "passport.json"

_MOST_PLANS = 64
_LONGEST_PASSPORT = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # what is no file must not hold us up


@dataclass(frozen=True)
class OpenPlan:
    """`file` is open, and stays the plan that it is if another takes its place. Nothing has read it yet."""

    passport: PlanManifest
    file: int


@dataclass(frozen=True)
class Plans:
    """By resolution: plans that were built from the bundle's graph, and why others cannot be used."""

    fit: dict[int, list[OpenPlan]] = field(default_factory=dict)
    unfit: dict[int, list[str]] = field(default_factory=dict)

    def close(self) -> None:
        for plan in (plan for plans in self.fit.values() for plan in plans):
            os.close(plan.file)


def open_plans(bundle: Path, graph_sha256: str, sides: Mapping[int, int]) -> Plans:
    """The plans of the bundle at `bundle`, whose resolutions have the `sides` of images; raises nothing for bad ones.

    No link is followed: a plan is code, and what may stand in a bundle is what its owner put there.
    """
    plans = Plans()
    try:
        engines = os.open(bundle / FOLDER, _DIRECTORY)
    except FileNotFoundError:
        return plans
    except OSError as err:
        reason = f"{FOLDER}: it cannot be opened as a folder ({err.strerror})"
        plans.unfit.update({resolution: [reason] for resolution in sides})
        return plans
    try:
        names = sorted(_folders(engines))
        if len(names) > _MOST_PLANS:  # each is an open file
            reason = f"{FOLDER}: of its {len(names)} folders the first {_MOST_PLANS} are looked at; remove some"
            plans.unfit.update({resolution: [reason] for resolution in sides})
        for name in names[:_MOST_PLANS]:
            try:
                plan = _open_plan(engines, name, graph_sha256, sides)
                plans.fit.setdefault(plan.passport.resolution, []).append(plan)
            except (OSError, ValueError) as err:
                plans.unfit.setdefault(_resolution(name, sides), []).append(f"{FOLDER}/{_shown(name)}: {_why(err)}")
    finally:
        os.close(engines)
    return plans


def _folders(engines: int) -> list[str]:
    """Also links, which are found unfit; not the hidden ones of an exporter at work."""
    with os.scandir(engines) as entries:
        return [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and (entry.is_symlink() or entry.is_dir(follow_symlinks=False))
        ]


def _shown(name: str) -> str:
    """A name may hold bytes that are no text, or control a terminal; what it is shown in must not break."""
    return name if name.isprintable() else ascii(name)


def _resolution(name: str, sides: Mapping[int, int]) -> int:
    """The resolution that a folder is called after; the smallest one if it is called otherwise."""
    return next((resolution for resolution in sides if name.startswith(f"{resolution}-")), min(sides))


def _open_plan(engines: int, name: str, graph_sha256: str, sides: Mapping[int, int]) -> OpenPlan:
    folder = os.open(name, _DIRECTORY, dir_fd=engines)
    try:
        passport = _passport(folder)
        if passport.resolution not in sides:
            raise ValueError(f"it is for resolution {passport.resolution}, which the bundle does not serve")
        if passport.side != sides[passport.resolution]:
            raise ValueError(
                f"it is for images of {passport.side} pixels, not of {sides[passport.resolution]} as the bundle's are"
            )
        if passport.graph_sha256 != graph_sha256:
            raise ValueError("it was built from another graph")
        return OpenPlan(passport, _open_file(folder, PLAN, passport.plan_bytes))
    finally:
        os.close(folder)


def _passport(folder: int) -> PlanManifest:
    with os.fdopen(_open_file(folder, PASSPORT), "rb") as file:
        return PlanManifest.model_validate_json(file.read(_LONGEST_PASSPORT))


def _open_file(folder: int, name: str, size: int | None = None) -> int:
    """An open regular file, of `size` bytes if that is known. OSError or ValueError."""
    file = os.open(name, _FILE, dir_fd=folder)
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and size in (None, status.st_size):
        return file
    os.close(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"its {name} is no regular file")
    raise ValueError(f"its {name} has {status.st_size:,} bytes, and should have {size:,}")


def _why(err: OSError | ValueError) -> str:
    if isinstance(err, ValidationError):
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        return f"its {PASSPORT} is not one: {where}: {first['msg']}"
    if isinstance(err, OSError):
        return f"{err.filename} cannot be opened ({err.strerror})" if err.filename else str(err)
    return str(err)
