"""One word for one thing: what the product defines has a name of its own, and calls say which argument is which."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = [path for folder in ("app", "bundle", "export", "model") for path in sorted((ROOT / folder).rglob("*.py"))]
EVERYWHERE = {"main"}  # the entry point of each script


def definitions(module: ast.Module) -> Iterator[str]:
    """The public classes, functions and types that a module defines at its top level."""
    for node in module.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) if name[0].isupper() and not name.isupper():
                yield name


def homonyms(names: Iterator[tuple[str, Path]]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for name, path in names:
        if not name.startswith("_") and name not in EVERYWHERE:
            places[name].append(str(path.relative_to(ROOT)))
    return {name: paths for name, paths in places.items() if len(paths) > 1}


def test_no_class_and_no_public_function_is_defined_twice() -> None:
    assert len(PRODUCT) > 100
    assert homonyms((name, path) for path in PRODUCT for name in definitions(ast.parse(path.read_bytes()))) == {}


def test_no_two_modules_have_the_same_name() -> None:
    assert homonyms((path.stem, path) for path in PRODUCT) == {}


def test_no_call_unpacks_a_literal() -> None:
    """`f(*(a, b))` hides which argument is which, as `f(**{"a": 1})` does; keywords that are no names stay."""
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for folder in ("app", "benchmarks", "bundle", "export", "model", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(call, ast.Call) and any(is_literal(argument) for argument in (*call.args, *call.keywords))
    ]
    assert found == []


def is_literal(argument: ast.AST) -> bool:
    match argument:
        case ast.Starred(value=ast.Tuple() | ast.List()):
            return True
        case ast.keyword(arg=None, value=ast.Dict(keys=keys)):
            return any(isinstance(key, ast.Constant) and str(key.value).isidentifier() for key in keys)
    return False
