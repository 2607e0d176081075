"""Type stubs of cuda.bindings, made from the real extension modules: `python -m tests.bindings.cuda FOLDER`.

They were compiled by Cython, which keeps the names of the arguments; what a function returns stands in its docstring.
"""

import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

MODULES = ("driver", "runtime", "nvrtc")

_HEAD = "from enum import IntEnum\nfrom typing import Any\n\n"
_RETURNS = re.compile(r"^\s*Returns\n\s*-+\n(.*?)(?:\n\s*[A-Z][\w ]+\n\s*-+\n|\Z)", re.MULTILINE | re.DOTALL)
_RETURNED = re.compile(r"^(?:\w+ : )?(?::py:obj:`~\.)?(\w+)", re.MULTILINE)


def write_stubs(folder: Path) -> None:
    """Write the stub packages `cuda` and `cuda.bindings` into `folder`."""
    package = folder / "cuda/bindings"
    package.mkdir(parents=True)
    (folder / "cuda/__init__.pyi").touch()
    (package / "__init__.pyi").write_text("__version__: str\n")
    for name in MODULES:
        (package / f"{name}.pyi").write_text(stub(importlib.import_module(f"cuda.bindings.{name}")))


def stub(module: ModuleType) -> str:
    public = {name: value for name, value in vars(module).items() if re.match("CU|cu|nvrtc|NVRTC", name)}
    classes = {name for name, value in public.items() if isinstance(value, type)}
    return _HEAD + "".join(_declaration(name, value, classes) for name, value in public.items())


def _declaration(name: str, value: object, classes: set[str]) -> str:
    if isinstance(value, int):
        return f"{name}: int\n"
    if name in classes:
        return _class(name, value)
    if callable(value):
        # An array's type stands in the annotation as text; argument types other than enums say too little to be of use.
        arguments = [
            f"{argument.name}: {argument.annotation if argument.annotation in classes else 'object'}"
            + ("" if argument.default is argument.empty else " = ...")
            for argument in inspect.signature(value).parameters.values()
        ]
        return f"def {name}({', '.join(arguments)}) -> {_returned(value, classes)}: ...\n"
    return ""


def _class(name: str, value: object) -> str:
    members = getattr(value, "__members__", None)
    if members is not None:
        values = "".join(f"    {member} = {int(members[member])}\n" for member in members)
        return f"class {name}(IntEnum):\n    ...\n{values}"
    fields = [field for field in vars(value) if not field.startswith("_") and field != "getPtr"]
    body = "".join(f"    {field}: Any\n" for field in fields)
    return f"class {name}:\n    def __init__(self, *args: Any) -> None: ...\n    def __int__(self) -> int: ...\n{body}"


def _returned(function: object, classes: set[str]) -> str:
    """What the docstring says is returned: always a tuple, whose first is the error."""
    section = _RETURNS.search(inspect.getdoc(function) or "")
    names = _RETURNED.findall(textwrap.dedent(section[1])) if section else []
    if not names or names[0] not in classes:
        return "tuple[Any, ...]"
    known = [name if name in classes or name in ("int", "bytes") else "Any" for name in names]
    return f"tuple[{', '.join(known)}]"


if __name__ == "__main__":
    write_stubs(Path(sys.argv[1]))
