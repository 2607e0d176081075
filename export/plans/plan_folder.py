"""An engine in its bundle: the folder engines/NAME with a plan, and the passport that says what it is.

A plan is code. A reader trusts it as far as its passport goes; docs/bundle.md has what is in one.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from bundle.writer import NotABundle, beside, install, sweep, write_json
from export.plans.build_spec import engine_name

FORMAT = 1
ENGINES = "engines"
PLAN = "plan"
PASSPORT = "passport.json"


def put_in_place(bundle: Path, passport: dict[str, Any], plan: bytes) -> Path:
    """Write `plan` and its passport, whole or not at all, into `bundle`, which else stays as it is; the folder.

    An engine of the same name is replaced in one step. Raises OSError, and NotABundle if something else has its place.
    """
    place = check_place(bundle, passport)
    engines = place.parent
    new = not engines.exists()
    try:
        _sweep(engines)
        with beside(place) as folder:
            (folder / PLAN).write_bytes(plan)
            described = {"format": FORMAT} | passport
            described |= {"plan_sha256": hashlib.sha256(plan).hexdigest(), "plan_bytes": len(plan)}
            write_json(folder / PASSPORT, described)
            folder.chmod(0o755)
            install(folder, place)
    except BaseException:
        if new:
            with suppress(OSError):
                engines.rmdir()
        raise
    return place


def check_place(bundle: Path, passport: dict[str, Any]) -> Path:
    """The folder of the engine that `passport` describes; NotABundle if something else has its place."""
    engines = bundle.resolve() / ENGINES
    place = engines / _name(passport)
    if engines.is_symlink() or (engines.exists() and not engines.is_dir()):
        raise NotABundle(f"{engines} is a link or no folder, and a service would not follow it: remove it")
    if place.exists() and not (place / PASSPORT).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise NotABundle(f"{place} is there and is no engine; it is left alone: remove it")
    return place


def stands(bundle: Path, wanted: dict[str, Any]) -> bool:
    """Whether `bundle` has a whole engine whose passport says all that `wanted` does."""
    place = bundle / ENGINES / _name(wanted)
    try:
        passport = json.loads((place / PASSPORT).read_text())
        wanted = {key: value for key, value in wanted.items() if key not in ("driver", "cuda")}  # any runs it
        same: bool = passport | {"format": FORMAT} | wanted == passport
        return same and hashlib.sha256((place / PLAN).read_bytes()).hexdigest() == passport["plan_sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _name(passport: dict[str, Any]) -> str:
    return engine_name(passport["resolution"], passport["precision"], passport["gpu"], passport["tensorrt"])


def _sweep(engines: Path) -> None:
    """Remove what killed runs left behind, of whatever engine."""
    for left in [*engines.glob(".*.partial-*"), *engines.glob(".*.aside")]:
        sweep(left.with_name(left.name[1:].rpartition(".")[0]))
