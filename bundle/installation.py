"""The optional parts of the project: whether they are installed, and the command that installs them."""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bundle.bundle_errors import ExplainedError

ROOT = Path(__file__).resolve().parents[1]


class NotInstalled(ExplainedError):
    """A package that something needs is not installed; the message has the command that installs it."""


def require_packages(packages: Iterable[str], extra: str, needed_by: str) -> None:
    """Raise NotInstalled unless all of `packages`, which the extra installs, are there."""
    missing = [package for package in packages if not _is_found(package)]
    if missing:
        raise NotInstalled(f"{needed_by} needs {' and '.join(missing)}, not installed here: {install_command(extra)}")


def _is_found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of what comes before a dot
        return False


def install_command(extra: str) -> str:
    """The command that installs what `extra` of pyproject.toml names, from where the project itself was installed.

    That is the checkout that runs, the folder or wheel that pip was given, or else the package index.
    """
    if (ROOT / "pyproject.toml").is_file():
        return f"pip install -e '{ROOT}[{extra}]'"
    source = _installed_from()
    if source is not None and source.exists():  # an image's build folder is gone
        return f"pip install '{source}[{extra}]'"
    return f"pip install 'crossvit[{extra}]'"


def _installed_from() -> Path | None:
    """The folder or the wheel that pip was given, as pip notes it (PEP 610); None for a package index."""
    try:
        noted = distribution("crossvit").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = urlsplit(json.loads(noted)["url"]) if noted else None
    return Path(url2pathname(url.path)) if url is not None and url.scheme == "file" else None
