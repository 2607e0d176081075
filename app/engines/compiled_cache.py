"""Folders of compiled models, for later starts. Compiled models are code: no other user may write there."""

import hashlib
import json
import logging
import mmap
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engines.interface import EngineRefused
from app.machine.cpus import allowed_cpus, usable_cpus
from bundle.atomic_files import replace_file
from bundle.cache_folder import private_cache_folder

log = logging.getLogger(__name__)

# Part of the cache's key. Raise it with every change to what the CPU engines compile, measure or store.
CACHE_FORMAT = 1

_DIGEST = hashlib.sha256().digest_size
_MOST_FOLDERS = 8  # of one kind; the least recently used are removed
_PARTIAL = ".partial-"
_ABANDONED_SECONDS = 3600  # after which a partial file is removed


def private_folder(what: str, *names: str) -> Path:
    """The private folder of these names in the cache, for `what`. EngineRefused if private_cache_folder fails."""
    try:
        return private_cache_folder(*names)
    except OSError as err:
        raise EngineRefused(f"no folder for {what}: {err}. Let XDG_CACHE_HOME be one that is writable") from err


class MappedFile:
    """A file's content, mapped: changes to it stay in this process."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self.content: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)[:-_DIGEST]

    def release(self) -> None:
        """Give its memory back. Later reads come from the file again, without changes."""
        with suppress(AttributeError, OSError):  # a system that has no such advice
            self._mapped.madvise(mmap.MADV_DONTNEED)


class CompiledCache:
    """Files by their names, in a folder for `key`; another key has another folder.

    A file is there whole or not at all; a damaged one counts as missing, and one that cannot be written is not kept.
    EngineRefused as private_folder raises it.
    """

    def __init__(self, key: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._folder = private_folder("compiled models", "compiled", digest[:32])
        self.written = 0  # bytes, by this object
        with suppress(OSError):  # a folder that cannot be tidied can still be read
            self._prune()
            os.utime(self._folder)

    def read(self, name: str) -> MappedFile | None:
        """The file called `name`, or None if there is none."""
        try:
            with (self._folder / name).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # ValueError: it is empty
            return None
        kept = MappedFile(mapped)
        return kept if hashlib.sha256(kept.content.data).digest() == mapped[-_DIGEST:] else None

    def write(self, name: str, content: bytes) -> None:
        """Keep `content` under `name`, if that is possible."""
        with suppress(OSError):  # a full disk, a folder that was removed meanwhile
            replace_file(self._folder / name, content, hashlib.sha256(content).digest(), prefix=_PARTIAL)
            self.written += len(content)

    def read_json(self, name: str) -> Any:
        """The value that `write_json` wrote, or None."""
        kept = self.read(name)
        return None if kept is None else json.loads(kept.content.tobytes())

    def write_json(self, name: str, value: object) -> None:
        self.write(name, json.dumps(value).encode())

    def drop(self, pattern: str, but: str) -> None:
        """Remove the files whose names are like `pattern`, but for those that begin with `but`."""
        with suppress(OSError):
            for file in self._folder.glob(pattern):
                if not file.name.startswith(but):
                    file.unlink()

    def _prune(self) -> None:
        for partial in self._folder.glob(f"{_PARTIAL}*"):  # of processes that were killed
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink()
        used = sorted(self._folder.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in used[_MOST_FOLDERS:]:
            shutil.rmtree(folder, ignore_errors=True)


def open_cache(graphs: Mapping[str, str]) -> CompiledCache | None:
    """The cache for models compiled from `graphs` on this CPU with these versions; None if there is no place for it.

    `graphs` has the sha256 of each graph by its precision.
    """
    key = {
        "graphs": graphs,
        "format": CACHE_FORMAT,
        "cpu": cpu_model(),
        "cpus": [usable_cpus(), allowed_cpus()],
        "versions": {package: _version(package) for package in ("crossvit", "openvino", "onnxruntime")},
    }
    try:
        return CompiledCache(key)
    except EngineRefused as err:
        log.info("nothing is kept for the next start: %s", err)
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model() -> dict[str, str]:
    """The CPU's model and instructions: CPUs that differ in them get different compiled code.

    A virtual machine may hide some instructions, so that the model is not enough. Empty where /proc says neither.
    """
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines if name.strip() in _CPU}


_CPU = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"} | {  # of x86, and of Arm
    "CPU implementer",
    "CPU variant",
    "CPU part",
    "Features",
}
