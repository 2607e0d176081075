"""Folders of bundles, as volumes, file systems and copies under way leave them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bundle.bundle_errors import BadBundle
from bundle.discovery import bundle_at, find_bundles
from bundle.file_names import MODEL_NAME_RULE
from bundle.reader import open_bundle
from tests.support.folders import NOBODY, as_root


def fill(folder: Path) -> Path:
    """What stands for a bundle: its manifest."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def volume() -> Iterator[Path]:
    """Bundles beside what volumes, desktops, storage boxes and copies keep beside them."""
    with TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        yield filled(Path(folder))


def filled(volume: Path) -> Path:
    for name in ("a", "B.2-x", ".snapshot/old", ".Trash-1000", ".a.Xy12", "..2026_11_28_10_00_00.1/c"):
        fill(volume / name)
    for name in ("lost+found", "@eaDir", "notes"):
        (volume / name).mkdir()
    (volume / "..data").symlink_to("..2026_11_28_10_00_00.1")
    (volume / "c").symlink_to("..data/c")
    (volume / "gone").symlink_to("nowhere")
    (volume / "loop").symlink_to("loop")
    (volume / "README").write_text("")
    fill(volume / "a b")
    fill(volume / os.fsdecode(b"caf\xe9"))
    return volume


@pytest.fixture
def nobody(volume: Path) -> Iterator[Path]:
    """The volume, with folders and files that are closed to this process."""
    fill(volume / "private").chmod(0o700)
    (volume / "lost+found").chmod(0o700)
    (fill(volume / "unreadable") / "manifest.json").chmod(0o600)
    os.seteuid(NOBODY)
    try:
        yield volume
    finally:
        os.seteuid(0)


def test_other_files_on_a_volume_are_ignored(volume: Path) -> None:
    found = find_bundles(volume)
    assert found.bundles == {name: volume / name for name in ("B.2-x", "a", "c")}
    assert found.passed_over == {
        "@eaDir": f"{volume}/@eaDir has no manifest.json",
        "a b": f"{volume}/a b: a model's name has {MODEL_NAME_RULE}; rename the folder",
        os.fsdecode(b"caf\xe9"): f"'{volume}/caf\\udce9': a model's name has {MODEL_NAME_RULE}; rename the folder",
        "gone": f"{volume}/gone is a link to nothing",
        "loop": f"{volume}/loop/manifest.json cannot be read (Too many levels of symbolic links)",
        "lost+found": f"{volume}/lost+found has no manifest.json",
        "notes": f"{volume}/notes has no manifest.json",
    }


@as_root
def test_a_folder_that_is_closed_to_the_service_is_passed_over_and_says_whose_it_is(nobody: Path) -> None:
    found = find_bundles(nobody)
    assert {"a", "c"} < found.bundles.keys()
    for name, mode in (("lost+found", "0700"), ("private", "0700")):
        assert (
            f"{nobody}/{name} belongs to user 0 and group 0, mode {mode}, and this process is user 65534"
            in (found.passed_over[name])
        )
        assert "fsGroup" in found.passed_over[name]


@as_root
def test_a_bundle_of_files_that_are_closed_to_the_service_says_whose_they_are(nobody: Path) -> None:
    with pytest.raises(BadBundle, match=r"manifest\.json belongs to user 0 and group 0, mode 0600.*is user 65534"):
        open_bundle(nobody / "unreadable")


@as_root
def test_a_path_that_is_closed_to_the_service_says_which_part_of_it_is(nobody: Path) -> None:
    for path in (nobody / "private", nobody / "private" / "more" / "deep"):
        with pytest.raises(BadBundle, match=rf"no bundle at {path} \(.*{nobody}/private belongs to user 0"):
            bundle_at([path], None)


@as_root
def test_the_models_of_a_volume_with_a_closed_folder_are_listed(volume: Path) -> None:
    (volume / "lost+found").chmod(0o700)
    # These are imported while root, who may read them.
    imports = "import os, bundle.reader, bundle.discovery, rich.cells; from app.cli import main"
    somebody = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
    code = f"{imports}; {somebody}; main(['models', '--folder', {str(volume)!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"passed over: {volume}/lost+found/manifest.json cannot be read" in done.stderr
    assert f"{volume}/a/manifest.json: " in done.stdout


@pytest.mark.parametrize(("default", "name"), [("a", "a"), ("c", "c")])
def test_commands_take_the_default_bundle_of_a_folder(volume: Path, default: str, name: str) -> None:
    assert bundle_at([volume], default) == volume / name
    assert bundle_at([volume / "a"], "other") == volume / "a"


@pytest.mark.parametrize(
    ("path", "default", "message"),
    [
        ("", None, "several models at .*; choose one with --default-model: B.2-x, a, c"),
        ("", "notes", "there is no model 'notes' at .*; there is B.2-x, a, c; .*/notes has no manifest.json"),
        ("nowhere", None, r"no bundle at .*/nowhere \(there is no .*/nowhere\); make one and serve it with"),
        ("README", None, r"no bundle at .*README \(.*README cannot be read \(Not a directory\)\)"),
        ("notes", None, r"no bundle at .*notes; make one and serve it with"),
    ],
)
def test_a_path_without_the_requested_bundle_is_an_error_that_lists_what_exists(
    volume: Path, path: str, default: str | None, message: str
) -> None:
    with pytest.raises(BadBundle, match=message):
        bundle_at([volume / path], default)


def test_a_deleted_working_directory_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(BadBundle, match="no bundle at artifacts"):
        bundle_at([Path("artifacts")], None)
    with pytest.raises(BadBundle, match="the working directory, which is gone"):
        open_bundle(Path("artifacts"))
    monkeypatch.chdir(tmp_path)


def test_a_link_that_a_volume_swaps_leads_to_the_new_bundle_under_its_own_name(volume: Path) -> None:
    fill(volume / "..2026_11_28_11_00_00.2" / "c")
    (volume / "..new").symlink_to("..2026_11_28_11_00_00.2")
    (volume / "..new").replace(volume / "..data")
    assert find_bundles(volume).bundles["c"].resolve() == (volume / "..2026_11_28_11_00_00.2" / "c").resolve()


def test_the_only_bundle_may_have_another_name_and_several_may_not(tmp_path: Path) -> None:
    bundle = fill(tmp_path / "models")
    for path in (bundle, tmp_path):
        found = find_bundles(path, name="flowers")
        assert found.bundles == {"flowers": bundle}
        assert found.default(None) == "flowers"
    fill(tmp_path / "others")
    with pytest.raises(BadBundle, match="flowers can be the name of one model only, and there are models, others"):
        find_bundles(tmp_path, name="flowers").default(None)


def test_no_bundle_has_no_other_name_either(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="no bundle at"):
        find_bundles(tmp_path, name="flowers").default(None)
