"""The command that makes a bundle, and what has to be installed for it.

It is a program of its own: the service's package imports neither the exporter nor the hub's client.
"""

import sys
from collections.abc import Sequence

PULL_MODULE = "export.pull"
QUANTIZATION_PACKAGES = ("nncf", "onnx_ir", "openvino")
PULL_PACKAGES = ("huggingface_hub", "onnx", "onnxruntime")


def pull_command_line(source: str, options: Sequence[str]) -> list[str]:
    """The command line that makes the bundle of `source`, unless there is one that was made of the same."""
    return [sys.executable, "-P", "-m", PULL_MODULE, source, "--if-changed", *options]
