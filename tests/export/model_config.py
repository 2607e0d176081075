"""Triton's own definition of config.pbtxt.

tritonclient ships it, in a package that cannot be imported without gRPC, which this needs nothing of.
"""

import importlib.util
from importlib.metadata import distribution
from typing import Any

_FILE = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")


def definition() -> Any:
    """The module with `ModelConfig` and its parts."""
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(_FILE))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
