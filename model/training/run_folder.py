"""The folder of a run: one process trains there, and it holds one run, which model.recipe.json describes."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from model.dataset import Dataset
from model.labels import labels_beside, recipe_beside
from model.training.artifacts import WEIGHTS, write_json_file
from model.training.recipe import Recipe
from model.training.trainer import CHECKPOINT
from model.weights import Weights

RECORDED_PACKAGES = ("crossvit", "torch", "kornia", "pillow")


class BadRun(Exception):
    """A run that cannot start; the message says why, and what to do."""


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Make `folder` if it does not exist, and lock it. Raises BadRun if another process trains there.

    A folder that was made here and is empty at the end is removed.
    """
    if folder.exists() and not folder.is_dir():
        raise BadRun(f"{folder} is not a folder: choose another --out")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    _locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock ends with this process, however it ends
        except BlockingIOError as err:
            raise BadRun(f"another process trains in {folder}: choose another --out, or wait for it") from err
        yield
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()  # fails, as it must, if the run wrote something
        _locks.remove(descriptor)
        os.close(descriptor)


def _close_locks() -> None:
    """In a process that reads files for the training one: when the training process is killed, its lock must end."""
    while _locks:
        os.close(_locks.pop())


_locks: set[int] = set()
os.register_at_fork(after_in_child=_close_locks)


def describe_run(
    recipe: Recipe, data: Dataset, weights: Weights | None, *, kept_head: bool, options: Mapping[str, object]
) -> dict[str, Any]:
    """The content of model.recipe.json.

    Args:
        recipe: the settings of the run.
        data: the training images.
        weights: what the run starts from; None for random weights.
        kept_head: whether the head of `weights` is kept.
        options: how the run is carried out, as far as that changes the weights.
    """
    return {
        "recipe": recipe.model_dump(),
        "data": {"images": len(data), "classes": len(data.categories), "names_sha256": _names_sha256(data)},
        "started_from": {"id": weights.id, "source": weights.source, "head": kept_head} if weights else None,
        "options": dict(options),
        "versions": {package: version(package) for package in RECORDED_PACKAGES},
    }


def begin_or_resume(folder: Path, run: dict[str, Any]) -> None:
    """Write the description `run` into `folder`, or check that the run that is there has the same one; else BadRun.

    Versions may differ. A description without a checkpoint or weights is overwritten.
    """
    path = recipe_beside(folder / WEIGHTS)
    results = [file for file in (folder / CHECKPOINT, folder / WEIGHTS) if file.is_file()]
    if not path.is_file() and (labels := labels_beside(folder / WEIGHTS)):
        results.append(labels)
    if not results:
        write_json_file(path, run)
        return
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BadRun(f"{results[0]} is of no run that {path.name} describes: choose another --out") from err
    differences = list(_differences(existing, run | {"versions": existing.get("versions")}))
    if differences:
        raise BadRun(f"{folder} has another run: {'; '.join(differences)}. Choose another --out")


def _names_sha256(data: Dataset) -> str:
    names = "\n".join(f"{item.category}/{PurePosixPath(item.name).name}" for item in data.items)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), str(key))
    elif old != new:
        yield f"{name} was {old}, now {new}"
