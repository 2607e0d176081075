"""What is noted of a bundle in the cache, on real files."""

import shutil
from pathlib import Path

import pytest

from bundle.cached_source import CachedSource, cached_source
from bundle.pulled_bundles import is_unchanged, pulled_folder, read_pull_record
from export.inputs.remembered_pull import RememberedPull, options_without


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> CachedSource:
    """A checkpoint, and a bundle in its place in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "finetuned.pth"
    path.write_bytes(b"weights")
    source = cached_source(str(path))
    shutil.copytree(bundle, pulled_folder(source))
    return source


def is_current(source: CachedSource) -> bool:
    record = read_pull_record(pulled_folder(source))
    assert record is not None
    return is_unchanged(pulled_folder(source), source, record)


def test_a_bundle_of_files_that_stay_is_current(checkpoint: CachedSource) -> None:
    said: list[str] = []
    RememberedPull(checkpoint, []).write(said.append)
    assert is_current(checkpoint)
    assert said == []


@pytest.mark.parametrize("changed", ["finetuned.pth", "classes.txt", "config.json"])
def test_a_file_that_changes_while_the_bundle_is_made_is_noted_as_it_was_read(
    checkpoint: CachedSource, tmp_path: Path, changed: str
) -> None:
    (tmp_path / "classes.txt").write_text("rose\n")
    said: list[str] = []
    remembered = RememberedPull(checkpoint, ["--labels", str(tmp_path / "classes.txt")])
    (tmp_path / changed).write_bytes(b"further trained")
    remembered.write(said.append)
    assert not is_current(checkpoint)
    assert said == ["note: a file that the bundle is made from changed meanwhile; the next start makes it again"]


def test_options_of_one_run_are_not_noted_and_paths_are_absolute(checkpoint: CachedSource) -> None:
    given = ["--if-changed", "--labels=classes.txt", "--only-weights", "untrained", "--mean", "0.5", "0.5", "0.5"]
    RememberedPull(checkpoint, given).write(print)
    record = read_pull_record(pulled_folder(checkpoint))
    assert record is not None
    assert record.options == ["--labels", str(Path("classes.txt").absolute()), "--mean", "0.5", "0.5", "0.5"]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["crossvit_9", "--variant", "crossvit_9"], ["--variant", "crossvit_9"]),
        (["--variant", "crossvit_9", "crossvit_9"], ["--variant", "crossvit_9"]),
        (["--variant=crossvit_9", "crossvit_9", "--if-changed"], ["--variant=crossvit_9", "--if-changed"]),
        (
            ["--mean", "1", "1", "1", "crossvit_9", "--std", "1", "1", "1"],
            ["--mean", "1", "1", "1", "--std", "1", "1", "1"],
        ),
        (["--if-changed", "crossvit_9"], ["--if-changed"]),
    ],
)
def test_the_source_is_left_out_and_an_option_that_equals_it_is_not(words: list[str], options: list[str]) -> None:
    values = {"--variant": 1, "--mean": 3, "--std": 3, "--if-changed": 0}
    assert options_without("crossvit_9", words, values) == options
