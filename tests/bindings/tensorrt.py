"""Type stubs of TensorRT, made from its real Python bindings.

TensorRT's builder and runtime are not in the package registries, but its bindings are: one extension module, which
needs three libraries of TensorRT. Libraries that define the functions which it names, and nothing else, are enough to
import it. pybind11 writes each function's signature into its docstring; pybind11-stubgen makes stubs of them, and what
is mended here is what those signatures cannot say.
"""

import ast
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests.bindings.elf import shared_object
from tests.bindings.fetch import fetched

PACKAGES = {
    "10.13.0.35": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}


def importable(version: str, cache: Path, folder: Path) -> Path:
    """A folder in which `tensorrt_bindings` of `version` can be imported; fetch.NotToBeHad if it cannot be fetched."""
    wheel = fetched(f"{PACKAGES[version]}=={version}", cache)
    package = Path(shutil.copytree(wheel / "tensorrt_bindings", folder / "tensorrt_bindings"))
    with (package / "tensorrt.so").open("rb") as file:
        binary = ELFFile(file)
        dynamic, table = (binary.get_section_by_name(name) for name in (".dynamic", ".dynsym"))
        assert isinstance(dynamic, DynamicSection)
        assert isinstance(table, SymbolTableSection)
        needed = [str(vars(tag)["needed"]) for tag in dynamic.iter_tags("DT_NEEDED")]
        symbols = list(table.iter_symbols())
    here = [ctypes.CDLL(None), *(ctypes.CDLL(name) for name in needed if not name.startswith("libnv"))]
    undefined = [
        symbol.name
        for symbol in symbols
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
    ]
    missing = [name for name in undefined if not any(hasattr(library, name) for library in here)]
    for name in needed:
        if name.startswith("libnv"):
            (package / name).write_bytes(shared_object(name, missing))
    return folder


def write_stub(bindings: Path, folder: Path) -> None:
    """Write the stub package `tensorrt` into `folder`, from the `bindings` that `importable` made."""
    command = [sys.executable, "-m", "pybind11_stubgen", "tensorrt_bindings", "--print-invalid-expressions-as-is"]
    environment = os.environ | {"PYTHONPATH": str(bindings)}
    subprocess.run([*command, "--output-dir", str(folder)], env=environment, check=True, capture_output=True)
    raw = folder / "tensorrt_bindings"
    # tensorrt's own __init__ takes everything from tensorrt_bindings, which takes everything from the extension module.
    extension, package = ((raw / name).read_text() for name in ("tensorrt.pyi", "__init__.pyi"))
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt/__init__.pyi").write_text(mended(extension) + _VERSION.findall(package)[0])
    shutil.rmtree(raw)


_VERSION = re.compile(r"^__version__: .*\n", re.MULTILINE)


def mended(stub: str) -> str:
    """`stub` as mypy can read it, without docstrings."""
    stub = re.sub(r"(?<=, )in: ", "in_: ", stub)  # a parameter called by a keyword
    stub = re.sub(r"(= None, \w+: [\w.]+)(?=[,)])", r"\1 = ...", stub)  # all behind a default need one
    stub = re.sub(r" = <[\w.: ]+>", " = ...", stub)  # an enum's member
    stub = re.sub(r"\bdetail::accessor<[\w:]+>", "object", stub)
    classes = set(re.findall(r"^class (\w+)", stub, re.MULTILINE)) | {"object"}

    def python_name(found: re.Match[str]) -> str:
        """C++ classes that were not known yet when the signature was written."""
        name = found[1]
        return next((known for known in (name, name.removeprefix("I")) if known in classes), "object")

    stub = re.sub(r"\bnv\w+::(?:\w+::)*(\w+)", python_name, stub)
    tree = _Mender().visit(ast.parse(stub))
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


_TYPES = {
    "bool": "builtins.bool",  # tensorrt.bool is a DataType
    "capsule": "object",
    "typing.SupportsInt": "int",  # what pybind11 converts; here only what is one
    "typing.SupportsFloat": "float",
    "typing_extensions.CapsuleType": "object",
}


class _Mender(ast.NodeTransformer):
    def visit_Module(self, node: ast.Module) -> ast.Module:
        self.generic_visit(node)
        node.body[1:1] = ast.parse("import builtins, collections.abc").body  # behind the import from __future__
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        node.body = [part for part in node.body if not _is_untyped(part)]
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        if "__getitem__" in methods and "__iter__" not in methods:
            item = next(filter(None, map(_item_type, node.body)))
            node.body += ast.parse(f"def __iter__(self) -> collections.abc.Iterator[{item}]: ...").body
        if node.name == "IHostMemory":  # "supports the Python buffer protocol", its docstring says
            node.body += ast.parse("def __buffer__(self, flags: int, /) -> memoryview: ...").body
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.body = [ast.Expr(ast.Constant(...))]
        parameters = node.args.args
        optional = parameters[len(parameters) - len(node.args.defaults) :]
        for parameter, default in zip(optional, node.args.defaults, strict=True):
            if ast.unparse(default) == "None" and parameter.annotation:
                parameter.annotation = _type(f"{ast.unparse(parameter.annotation)} | None")
        for parameter in parameters:
            # "the TensorRT API can implicitly convert Python iterables to Dims objects", its docstring says
            if parameter.annotation and ast.unparse(parameter.annotation) == "Dims":
                parameter.annotation = _type("Dims | collections.abc.Sequence[int]")
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _type(_TYPES[node.id]) if node.id in _TYPES and isinstance(node.ctx, ast.Load) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        name = ast.unparse(node)
        return _type(_TYPES[name]) if name in _TYPES else node


def _type(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _is_untyped(part: ast.stmt) -> bool:
    """__enter__ and __exit__, which are deprecated, and written in Python."""
    return isinstance(part, ast.FunctionDef) and part.name in ("__enter__", "__exit__")


def _item_type(part: ast.stmt) -> str | None:
    if isinstance(part, ast.FunctionDef) and part.name == "__getitem__" and part.returns:
        index = part.args.args[1].annotation
        if index and ast.unparse(index) == "int":
            return ast.unparse(part.returns)
    return None
