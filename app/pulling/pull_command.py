"""The command that makes a bundle, and what has to be installed for it.

It is a program of its own: the service's package imports neither the exporter nor the hub's client.
"""

import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from app.errors import MissingPackage

PULL_MODULE = "export.pull"
QUANTIZATION_PACKAGES = ("nncf", "openvino")
PULL_PACKAGES = ("huggingface_hub", "onnx", "onnxruntime")


def pull_command_line(source: str, options: Sequence[str]) -> list[str]:
    """The command line that makes the bundle of `source`, unless there is one that was made of the same."""
    return [sys.executable, "-P", "-m", PULL_MODULE, source, "--if-changed", *options]


def check_installed(packages: Iterable[str], extra: str) -> None:
    """Raise MissingPackage if one of `packages`, which the extra installs, is not there."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingPackage(
                f"{package} is not installed: pip install 'crossvit[{extra}]' installs what this command needs"
            )
