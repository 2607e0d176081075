"""Modules that are loaded once more, over other libraries than the real ones."""

from importlib.util import find_spec, module_from_spec
from typing import Any


def loaded_anew(name: str) -> Any:
    """The module `name` as one that nobody else gets; what it imports is taken from sys.modules as it is now."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
