"""TensorRT's timing cache: its measurements of kernels, kept in a file from build to build.

It belongs to a GPU model and a version of TensorRT, not to a network, and so lies outside all bundles.
"""

import os
from pathlib import Path

from bundle.atomic_files import replace_file
from export.plans.build_spec import Device, Unable, slug


def default_file(device: Device) -> Path:
    """Its place under XDG_CACHE_HOME, or ~/.cache. Raises Unable if neither exists."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as err:
        raise Unable("this user has no home folder for the timing cache: give it with --timing-cache FILE") from err
    return home / "crossvit" / f"timings-{slug(device.gpu)}-trt{device.tensorrt}"


def read_timings(file: Path) -> bytes:
    """The content of `file`; empty if it does not exist. Raises OSError."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def write_timings(file: Path, timings: bytes) -> None:
    """Replace `file` in one step. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, timings)
