"""What is installed is complete: an installation from a wheel has the files that the checkout has."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_of_the_packages_is_installed() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, of_package in patterns.items():
        installed = {path for pattern in of_package for path in (ROOT / package).glob(pattern)}
        others = {path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert others - installed == set(), package
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    without_data = packages - patterns.keys()
    for package in without_data:
        assert not [path for path in (ROOT / package).rglob("*") if path.suffix not in ("", ".py", ".pyc")], package
