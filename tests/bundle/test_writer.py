import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bundle import atomic_files
from bundle.bundle_errors import NotABundle
from bundle.file_names import MANIFEST
from bundle.writer import replacing_bundle


def make(path: Path, text: str) -> None:
    with replacing_bundle(path) as folder:
        (folder / MANIFEST).write_text(text)


def read_manifest(bundle: Path) -> object:
    return json.loads((bundle / MANIFEST).read_text())


def test_a_bundle_is_put_in_place_and_replaced(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b", '{"n": 1}')
    make(tmp_path / "a" / "b", '{"n": 2}')
    assert read_manifest(tmp_path / "a" / "b") == {"n": 2}
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755


def test_an_error_leaves_the_old_bundle_and_no_partial_files(tmp_path: Path) -> None:
    make(tmp_path / "b", '{"n": 1}')

    def fail() -> None:
        with replacing_bundle(tmp_path / "b") as folder:
            (folder / MANIFEST).write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_manifest(tmp_path / "b") == {"n": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_an_existing_folder_that_is_no_bundle_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("precious")
    for place in ("home", "file"):
        with pytest.raises(NotABundle, match="is not a bundle; it is not touched"):
            make(tmp_path / place, "{}")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "precious"


def test_an_empty_folder_is_a_place_for_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    make(tmp_path / "b", '{"n": 1}')
    assert read_manifest(tmp_path / "b") == {"n": 1}


KILLED_WHEN = {
    "while it writes": "os.kill(os.getpid(), signal.SIGKILL)",
    "before the exchange": "atomic_files.install_folder = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    "after the exchange": "atomic_files.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)",
}
SCRIPT = """
import os, signal, sys
from pathlib import Path
from bundle import atomic_files
from bundle.writer import replacing_bundle
with replacing_bundle(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text('{"n": 2}')
    KILL
"""


@pytest.mark.parametrize("moment", KILLED_WHEN)
def test_a_kill_at_any_moment_leaves_the_old_bundle_or_the_new_one(tmp_path: Path, moment: str) -> None:
    make(tmp_path / "b", '{"n": 1}')
    script = SCRIPT.replace("KILL", KILLED_WHEN[moment])
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "b"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_manifest(tmp_path / "b") == ({"n": 2} if moment == "after the exchange" else {"n": 1})
    assert len(list(tmp_path.iterdir())) == 2  # the next run removes what was left behind
    make(tmp_path / "b", '{"n": 3}')
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_two_runs_at_once_do_not_remove_each_others_work(tmp_path: Path) -> None:
    with replacing_bundle(tmp_path / "b") as first:
        make(tmp_path / "b", '{"n": 2}')
        (first / MANIFEST).write_text('{"n": 1}')
    assert read_manifest(tmp_path / "b") == {"n": 1}


def test_without_an_atomic_exchange_the_new_bundle_still_replaces_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Path) -> None:
        raise OSError(22, os.strerror(22))

    monkeypatch.setattr(atomic_files, "_exchange", unsupported)
    make(tmp_path / "b", '{"n": 1}')
    make(tmp_path / "b", '{"n": 2}')
    assert read_manifest(tmp_path / "b") == {"n": 2}
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_killed_between_the_two_renames_the_next_run_puts_the_old_bundle_back(
    tmp_path: Path,
) -> None:
    make(tmp_path / "b", '{"n": 1}')
    script = SCRIPT.replace("KILL", "atomic_files._exchange = lambda *_: 1 / 0")
    script = script.replace("1 / 0", "(_ for _ in ()).throw(OSError())") + (
        "    rename = Path.rename\n"
        "    def once(path, to):\n"
        "        if str(to).endswith('.aside'):\n"
        "            rename(path, to)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return rename(path, to)\n"
        "    Path.rename = once\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "b"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "b").exists()

    def fail() -> None:
        with replacing_bundle(tmp_path / "b"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_manifest(tmp_path / "b") == {"n": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    make(tmp_path / "link", '{"n": 1}')
    make(tmp_path / "link", '{"n": 2}')
    assert (tmp_path / "link").is_symlink()
    assert read_manifest(tmp_path / "target") == {"n": 2}


def test_names_with_special_characters_are_swept_too(tmp_path: Path) -> None:
    (tmp_path / ".x[1].partial-killed").mkdir()
    make(tmp_path / "x[1]", '{"n": 1}')
    assert list(tmp_path.iterdir()) == [tmp_path / "x[1]"]
