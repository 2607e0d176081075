"""TensorRT's timing cache: its measurements of kernels, kept in a file from build to build.

It belongs to a GPU model and a version of TensorRT, not to a network, and so lies outside all bundles.
"""

from pathlib import Path

from bundle.atomic_files import replace_file
from bundle.cache_folder import cache_folder, private_cache_folder
from export.plans.build_spec import Device, Unable, slug


def default_file(device: Device) -> Path:
    """Its place in the user's cache folder. Raises Unable if there is none."""
    try:
        folder = cache_folder()
    except OSError as err:
        raise Unable(f"no folder for the timing cache: {err}. Give it with --timing-cache FILE") from err
    return folder / f"timings-{slug(device.gpu)}-trt{device.tensorrt}"


def read_timings(file: Path) -> bytes:
    """The content of `file`; empty if it does not exist. Raises OSError."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def write_timings(file: Path, timings: bytes) -> None:
    """Replace `file` in one step. Raises OSError."""
    if _is_in_cache(file):
        private_cache_folder()  # engines keep their code there too
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, timings)


def _is_in_cache(file: Path) -> bool:
    try:
        return file.parent == cache_folder()
    except OSError:  # there is no home; the file has a place of its own
        return False
