"""A plan in its bundle: the folder engines/NAME with the plan and its manifest.

A plan is code. A reader trusts it only if its manifest fits; docs/bundle.md describes the manifest.
"""

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from bundle.atomic_files import file_sha256, remove_all_leftovers, replacing_folder
from bundle.bundle_errors import NotABundle
from bundle.file_names import ENGINES, PASSPORT, PLAN
from bundle.plan_manifest import PlanManifest, PlanRequest, write_plan_manifest
from export.plans.build_spec import engine_name


def write_plan(bundle: Path, manifest: PlanManifest, plan: bytes) -> Path:
    """Write `plan` and its manifest into `bundle`, whole or not at all; nothing else changes there. Its folder.

    A plan of the same name is replaced in one step. Raises OSError, and NotABundle if something else has its place.
    """
    place = plan_place(bundle, manifest)
    engines = place.parent
    is_new = not engines.exists()
    try:
        remove_all_leftovers(engines)
        with replacing_folder(place) as folder:
            (folder / PLAN).write_bytes(plan)
            write_plan_manifest(folder, manifest)
    except BaseException:
        if is_new:
            with suppress(OSError):
                engines.rmdir()
        raise
    return place


def plan_place(bundle: Path, request: PlanRequest) -> Path:
    """The folder of the plan. Raises NotABundle if something else has its place."""
    engines = bundle.resolve() / ENGINES
    place = engines / _folder_name(request)
    if engines.is_symlink() or (engines.exists() and not engines.is_dir()):
        raise NotABundle(f"{engines} is a link or not a folder, and a service would not follow it: remove it")
    if place.exists() and not (place / PASSPORT).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise NotABundle(f"{place} exists and is not an engine; it is not touched: remove it")
    return place


def has_plan(bundle: Path, request: PlanRequest) -> bool:
    """Whether `bundle` has the plan that `request` asks for, undamaged."""
    place = bundle / ENGINES / _folder_name(request)
    try:
        manifest = PlanManifest.model_validate_json((place / PASSPORT).read_bytes())
        return manifest.same_plan_as(request) and file_sha256(place / PLAN) == manifest.plan_sha256
    except (OSError, ValidationError):
        return False


def _folder_name(request: PlanRequest) -> str:
    return engine_name(request.resolution, request.precision, request.gpu, request.tensorrt)
