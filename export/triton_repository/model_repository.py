"""Changing a Triton model repository under a running Triton: a model's folder is the old one or the new one, whole.

Triton takes every folder in the repository for a model, and every folder in that whose name starts with a digit for a
version. Unfinished models are therefore put together beside the repository.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bundle.atomic_files import exclusive_lock, file_sha256, folder_beside, install_folder, remove_leftovers
from bundle.bundle_errors import ExplainedError
from bundle.file_names import MANIFEST
from export.triton_repository.pbtxt import MARK

CONFIG = "config.pbtxt"


class NotOurs(ExplainedError):
    """The place for the models holds something else, which is not touched."""


class BadVersion(ExplainedError):
    """A version number that exists, or that Triton would not serve."""


class Changes:
    """Models that are put together in `folder`, beside `repository`, until all of them are ready."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self._repository = repository
        self._folder = folder
        self._names: list[str] = []

    def model(self, name: str) -> Path:
        """A copy of the model's folder to work on, empty if there is no such model. Raises NotOurs."""
        existing, copy = self._repository / name, self._folder / name
        remove_leftovers(existing)
        if existing.exists() and not _is_ours(existing):
            raise NotOurs(
                f"{existing} was not written by this command; it is not touched: remove it, or choose another --out"
            )
        if existing.exists():
            shutil.copytree(existing, copy, symlinks=True)
        else:
            copy.mkdir()
        self._names.append(name)
        return copy

    def install(self) -> None:
        for name in self._names:
            install_folder(self._folder / name, self._repository / name)


@contextmanager
def changing(repository: Path) -> Iterator[Changes]:
    """Changes to `repository`, made at the end of the block; an error leaves everything as it was.

    Each model changes in one step. Other files in a model's folder stay. Raises NotOurs, before anything is written, if
    Triton could not serve `repository` as a whole.
    """
    _check(repository)
    repository = repository.resolve()
    with folder_beside(repository) as folder, _made(repository), _only_writer(repository):
        changes = Changes(repository, folder)
        yield changes
        changes.install()


def versions(model: Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    return sorted(int(path.name) for path in model.iterdir() if path.is_dir() and re.fullmatch(r"[1-9]\d*", path.name))


def version_for(model: Path, requested: int | str, digests: dict[str, str]) -> int:
    """The version that files with these sha256 (by name) get: `requested` if it is a number.

    "next" is one more than the newest. "auto" is the newest one if it has the very same files, else the next. Raises
    BadVersion for a number that is not over the newest: versions never change, and Triton serves the newest.
    """
    newest = max(versions(model), default=0)
    if isinstance(requested, int):
        if requested <= newest:
            raise BadVersion(
                f"{model.name} has a version {newest}, and Triton serves the newest; existing versions are never "
                f"changed: --model-version must be over {newest}, or next"
            )
        return requested
    if requested == "auto" and newest and _digests(model / str(newest)) == digests:
        return newest
    return newest + 1


def _digests(version: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in version.iterdir() if path.is_file()}


def _is_ours(model: Path) -> bool:
    try:
        return (model / CONFIG).read_text().startswith(MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _check(repository: Path) -> None:
    """Raise NotOurs if `repository` cannot be one, or has folders that Triton would fail to load."""
    if not repository.exists():
        return
    if not repository.is_dir():
        raise NotOurs(f"{repository} is a file; it is not touched: choose another --out")
    if os.path.ismount(repository):
        raise NotOurs(
            f"{repository} is the root of a file system, so nothing can be put together beside it and moved there in "
            "one step: choose a folder below it"
        )
    if (repository / MANIFEST).exists():
        raise NotOurs(f"{repository} is a bundle, not a model repository; it is not touched: choose another --out")
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        if not (folder / CONFIG).exists() and not versions(folder):
            raise NotOurs(
                f"{folder} is not a model, and Triton tries to load every folder of a repository: choose another --out"
            )


@contextmanager
def _made(repository: Path) -> Iterator[None]:
    """Make `repository`, and remove it at the end of the block if it is empty."""
    repository.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if not any(repository.iterdir()):
            repository.rmdir()


@contextmanager
def _only_writer(repository: Path) -> Iterator[None]:
    """Raise NotOurs if another run writes to it: the models that it installs would be lost."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(repository))
        except BlockingIOError as err:
            raise NotOurs(f"another run is writing to {repository}: try again when it has ended") from err
        yield
