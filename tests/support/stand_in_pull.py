"""A stand-in for `python -m export.pull`, which needs no network: it copies a bundle, slowly or not at all if told so.

The folder that `stand_in_for_pull` makes goes before the project's own packages. What the stand-in does stands in the
environment: STAND_IN_BUNDLE is copied, and STAND_IN_DOES is "fails", "is misused", "hangs" or "makes"; it notes its
arguments.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_SCRIPT = """
import os, shutil, sys, time
from pathlib import Path
from bundle.cached_source import cached_source
from bundle.pulled_bundles import files_of, pulled_folder, write_pull_record
from bundle.writer import replacing_bundle

source, options = cached_source(sys.argv[1]), [option for option in sys.argv[2:] if option != "--if-changed"]
if "--only-weights" in options:
    at = options.index("--only-weights")
    del options[at : at + 2]
with Path(os.environ["STAND_IN_NOTES"]).open("a") as notes:
    print(*sys.argv[1:], "nice", os.nice(0), file=notes)
print("making", source.text, flush=True)
if os.environ["STAND_IN_DOES"] == "fails":
    sys.exit("error: the hub is away")
if os.environ["STAND_IN_DOES"] == "is misused":
    sys.exit(2)
if os.environ["STAND_IN_DOES"] == "hangs":
    time.sleep(1000)
place = pulled_folder(source)
with replacing_bundle(place) as folder:
    bundle = os.environ["STAND_IN_INT8" if "--quantize" in options else "STAND_IN_BUNDLE"]
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
write_pull_record(place, source, options, files_of(source, options), fixed=os.environ["STAND_IN_DOES"] != "stands in")
"""


class StandInPull:
    """The stand-in: what it is to do, and how it was called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._notes = folder / "calls"
        self._set = monkeypatch.setenv
        self._set("STAND_IN_NOTES", str(self._notes))
        self.does("makes")

    def does(self, word: str) -> None:
        self._set("STAND_IN_DOES", word)

    @property
    def calls(self) -> list[str]:
        """The arguments of each call."""
        return self._notes.read_text().splitlines() if self._notes.exists() else []


def stand_in_for_pull(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path, quantized: Callable[[], Path] | None = None
) -> StandInPull:
    """Let `python -m export.pull` of this process's children be the stand-in; the user's cache is in `folder` too."""
    (folder / "stand-in" / "export").mkdir(parents=True)
    (folder / "stand-in" / "export" / "__init__.py").touch()
    (folder / "stand-in" / "export" / "pull.py").write_text(_SCRIPT)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'stand-in'}{os.pathsep}{Path(__file__).parents[2]}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("STAND_IN_BUNDLE", str(bundle))
    if quantized is not None:
        monkeypatch.setenv("STAND_IN_INT8", str(quantized()))
    return StandInPull(folder, monkeypatch)
