"""Tests and benchmarks share tests/support: no test module and no benchmark is imported by others."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    """The modules that the file imports, by their dotted names; those in strings of code are not seen."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return modules


def test_no_module_of_tests_is_imported_by_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        found = {name for name in imported(path) if ".test_" in name or name == "tests.conftest"}
        assert found == set(), path


def test_benchmarks_import_of_tests_only_what_is_shared() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        found = {name for name in imported(path) if name.startswith("tests")}
        assert all(f"{name}.".startswith("tests.support.") for name in found), path


def test_only_tests_of_benchmarks_import_them() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        if "benchmarks" not in path.parts:
            assert not any(name.split(".")[0] == "benchmarks" for name in imported(path)), path
