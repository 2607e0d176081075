"""Where the project was installed from decides the command; tests/test_packaging.py asks an installed wheel."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from bundle import installation
from bundle.installation import ROOT, install_command


class _Distribution:
    """Stands in for importlib.metadata's: this checkout is installed once, and in one way."""

    def __init__(self, url: str | None) -> None:
        self._noted = json.dumps({"url": url}) if url else None

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._noted


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The project in a folder that is no checkout."""
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    return monkeypatch


def test_a_checkout_gets_more_packages_for_itself() -> None:
    assert install_command("export") == f"pip install -e '{ROOT}[export]'"


def test_a_wheel_or_folder_that_is_still_there_is_named(installed: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "a wheel.whl"
    wheel.touch()
    installed.setattr(installation, "distribution", lambda _: _Distribution(wheel.as_uri()))
    assert install_command("quantize") == f"pip install '{wheel}[quantize]'"


@pytest.mark.parametrize("url", [None, "file:///tmp/a-build-folder-that-is-gone", "https://example.org/c.whl"])
def test_otherwise_the_package_is_named(installed: pytest.MonkeyPatch, url: str | None) -> None:
    installed.setattr(installation, "distribution", lambda _: _Distribution(url))
    assert install_command("gpu") == "pip install 'crossvit[gpu]'"


def test_an_uninstalled_copy_names_the_package(installed: pytest.MonkeyPatch) -> None:
    def none(_: str) -> None:
        raise PackageNotFoundError

    installed.setattr(installation, "distribution", none)
    assert install_command("otel") == "pip install 'crossvit[otel]'"
