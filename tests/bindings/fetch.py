"""Wheels from the package registry, unpacked beside the tests and never installed."""

import subprocess
import sys
import tempfile
from pathlib import Path


class NotToBeHad(Exception):
    """The registry cannot be reached, or has no wheel for this machine."""


def fetched(requirements: str, cache: Path) -> Path:
    """The folder of `cache` with the wheels of `requirements`, unpacked; NotToBeHad if there cannot be one."""
    folder = cache / f"{requirements.replace(' ', '-')}-{sys.implementation.cache_tag}"
    if folder.is_dir():
        return folder
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory(dir=cache) as unfinished:
        command = [*pip, "--no-deps", "--no-compile", "--target", f"{unfinished}/wheels", *requirements.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NotToBeHad(f"pip cannot fetch {requirements}: {done.stderr.strip()[-300:]}")
        (Path(unfinished) / "wheels").rename(folder)
    return folder
