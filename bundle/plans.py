"""The plans in a bundle's folder `engines`, each in a folder of its own beside its manifest."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from bundle.bundle_errors import BadBundle, first_error
from bundle.file_names import ENGINES, PASSPORT, PLAN
from bundle.plan_manifest import PlanManifest

_MAX_PLANS = 64  # each is an open file
_MAX_MANIFEST_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # O_NONBLOCK: opening a FIFO must not block


@dataclass(frozen=True)
class OpenPlan:
    """`file` is an open descriptor, which keeps this plan when another takes its place. Nothing has read it yet."""

    manifest: PlanManifest
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

    No link is followed: a plan is code, and may come from the bundle's owner only.
    """
    plans = Plans()
    try:
        engines = os.open(bundle / ENGINES, _DIRECTORY)
    except FileNotFoundError:
        return plans
    except OSError as err:
        reason = f"{ENGINES}: it cannot be opened as a folder ({err.strerror})"
        plans.unfit.update({resolution: [reason] for resolution in sides})
        return plans
    try:
        names = sorted(_folders(engines))
        if len(names) > _MAX_PLANS:
            reason = f"{ENGINES}: of its {len(names)} folders the first {_MAX_PLANS} are read; remove some"
            plans.unfit.update({resolution: [reason] for resolution in sides})
        for name in names[:_MAX_PLANS]:
            try:
                plan = _open_plan(engines, name, graph_sha256, sides)
                plans.fit.setdefault(plan.manifest.resolution, []).append(plan)
            except (OSError, ValueError) as err:
                reason = f"{ENGINES}/{_printable(name)}: {_reason(err)}"
                plans.unfit.setdefault(_resolution(name, sides), []).append(reason)
    finally:
        os.close(engines)
    return plans


def read_plan_manifests(bundle: Path) -> dict[Path, PlanManifest]:
    """The plan manifests of `bundle` by their folders, in order; those of another format are left out.

    Raises BadBundle for a file that is not a plan manifest. The plans are not checked.
    """
    manifests = {}
    for path in sorted(bundle.glob(f"{ENGINES}/[!.]*/{PASSPORT}")):
        try:
            manifests[path.parent] = PlanManifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as err:
            if isinstance(err, ValidationError) and _is_of_another_format(err):
                continue
            reason = first_error(err) if isinstance(err, ValidationError) else err.strerror
            raise BadBundle(
                f"{path} is not a plan manifest ({reason}): remove {path.parent}, or build the plan again"
            ) from err
    return manifests


def _is_of_another_format(err: ValidationError) -> bool:
    return any(error["loc"] == ("format",) and error["type"] == "literal_error" for error in err.errors())


def _folders(engines: int) -> list[str]:
    """Names of the folders and links, which are found unfit. Hidden ones are left out: an exporter works in them."""
    with os.scandir(engines) as entries:
        return [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and (entry.is_symlink() or entry.is_dir(follow_symlinks=False))
        ]


def _printable(name: str) -> str:
    """`name`, escaped if it has bytes that are not text, or that control a terminal."""
    return name if name.isprintable() else ascii(name)


def _resolution(name: str, sides: Mapping[int, int]) -> int:
    """The resolution at the start of a folder's name; the smallest one if there is none."""
    return next((resolution for resolution in sides if name.startswith(f"{resolution}-")), min(sides))


def _open_plan(engines: int, name: str, graph_sha256: str, sides: Mapping[int, int]) -> OpenPlan:
    folder = os.open(name, _DIRECTORY, dir_fd=engines)
    try:
        manifest = _read_manifest(folder)
        if manifest.resolution not in sides:
            raise ValueError(f"it is for resolution {manifest.resolution}, which the bundle does not serve")
        if manifest.side != sides[manifest.resolution]:
            raise ValueError(
                f"it is for images of {manifest.side} pixels, not of {sides[manifest.resolution]} as the bundle's are"
            )
        if manifest.graph_sha256 != graph_sha256:
            raise ValueError("it was built from another graph")
        return OpenPlan(manifest, _open_file(folder, PLAN, manifest.plan_bytes))
    finally:
        os.close(folder)


def _read_manifest(folder: int) -> PlanManifest:
    with os.fdopen(_open_file(folder, PASSPORT), "rb") as file:
        return PlanManifest.model_validate_json(file.read(_MAX_MANIFEST_BYTES))


def _open_file(folder: int, name: str, size: int | None = None) -> int:
    """The descriptor of a regular file, of `size` bytes if that is known. Raises OSError or ValueError."""
    file = os.open(name, _FILE, dir_fd=folder)
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and size in (None, status.st_size):
        return file
    os.close(file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"its {name} is not a regular file")
    raise ValueError(f"its {name} has {status.st_size:,} bytes, and should have {size:,}")


def _reason(err: OSError | ValueError) -> str:
    if isinstance(err, ValidationError):
        return f"its {PASSPORT} is not a plan manifest: {first_error(err)}"
    if isinstance(err, OSError):
        return f"{err.filename} cannot be opened ({err.strerror})" if err.filename else str(err)
    return str(err)
